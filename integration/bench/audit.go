package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/s3"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// onAudit compares an ingest and a sweep with the same without the transparency log:
// no leaf gets an index or a hash, nothing is signed and nothing published. The leaves
// themselves are written in both; what their commitments to rows cost is taken off.
func onAudit(b *bench) (err error) {
	s := &servers{dir: b.dir}
	b.servers = s
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.startAll(b.cache); err != nil {
		return err
	}
	input := filepath.Join(b.dir, "records.jsonl")
	if _, err := generate(input, b.n, b.n); err != nil {
		return err
	}
	commit, err := commitments(input)
	if err != nil {
		return err
	}
	fmt.Printf("The audit log: %d records, PostgreSQL and MinIO, one process\n\n", b.n)
	fmt.Printf("%-22s %12s %12s\n", "", "ingest s", "sweep s")
	// The two take turns, so that a machine that gets busy is busy for both.
	var with, without [2]time.Duration
	const rounds = 4
	for round := range rounds {
		for _, logged := range []bool{round%2 == 0, round%2 != 0} {
			ingest, sweep, err := b.live(fmt.Sprintf("audit_%d_%t", round, logged), input, logged)
			if err != nil {
				return err
			}
			name, sum := "with the log", &with
			if !logged {
				name, sum = "without", &without
				ingest -= commit
			}
			fmt.Printf("%-22s %12.1f %12.1f\n", name, ingest.Seconds(), sweep.Seconds())
			sum[0] += ingest
			sum[1] += sweep
		}
	}
	for i, name := range []string{"ingest", "sweep"} {
		ratio := without[i].Seconds() / with[i].Seconds()
		fmt.Printf("%s with the log: %.0f %% of its rows/s without\n", name, 100*ratio)
		b.atLeast(name+" with the log, % of its rows/s without", 100*ratio, 85)
	}
	return nil
}

// commitments is how long it takes to hash the rows of all records, once.
func commitments(input string) (time.Duration, error) {
	f, err := os.Open(input)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := cte.NewReader(f, cte.Options{File: input, Now: time.Now()})
	if err != nil {
		return 0, err
	}
	var took time.Duration
	rows := make([]lifecycle.Row, 0, lifecycle.DefaultLimits().BatchRecords)
	inputs := make([][]cte.Lot, 0, cap(rows))
	hashes := make([][32]byte, cap(rows))
	// As an ingest does it: a batch at a time.
	hash := func() {
		before := time.Now()
		for i := range rows {
			hashes[i] = lifecycle.RowHash(&rows[i], inputs[i])
		}
		archive.Root(hashes[:len(rows)])
		took += time.Since(before)
		rows, inputs = rows[:0], inputs[:0]
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		rows = append(rows, lifecycle.Row{RecordID: rec.RecordID, TLC: rec.TLC, TLCSource: rec.TLCSource, EventType: rec.EventType, EventTimestamp: rec.EventTimestamp,
			CreatedOrObtainedAt: rec.CreatedOrObtainedAt, Location: rec.Location(), Product: rec.Product()})
		inputs = append(inputs, rec.InputLots)
		if len(rows) == cap(rows) {
			hash()
		}
	}
	hash()
	return took, nil
}

// live takes in all records and sweeps them, on a database and a vault of their own.
func (b *bench) live(name, input string, logged bool) (ingest, sweep time.Duration, err error) {
	ctx := context.Background()
	if err := b.servers.psql("postgres", "CREATE DATABASE "+name); err != nil {
		return 0, 0, err
	}
	store, err := postgres.Create(ctx, postgres.Options{URL: b.servers.database(name)}, 1, storetest.First(time.Now()))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	keys, err := filekeys.Create(filepath.Join(b.dir, name), filekeys.Options{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	vault, err := s3.Open(ctx, s3.Options{Name: "minio", Bucket: "lotkeeper", Prefix: name, Region: "us-east-1", Endpoint: b.servers.s3, PathStyle: true,
		Now: time.Now, Wait: func(context.Context, time.Duration) error { return nil }})
	if err != nil {
		return 0, 0, err
	}
	e := &lifecycle.Engine{Store: store, Vaults: []archive.Vault{vault}, Keys: keys, LogSigner: storetest.LogSigner(), Now: time.Now, Log: zerolog.Nop(),
		Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "bench", Software: "bench"}
	if !logged {
		e.Store = unlogged{store}
	}
	if err := e.AddVault(ctx, "minio"); err != nil {
		return 0, 0, err
	}
	before := time.Now()
	in, err := e.Ingest(ctx, []lifecycle.Input{{Name: "records.jsonl", Open: func() (io.ReadCloser, error) { return os.Open(input) }}},
		lifecycle.IngestOptions{Reject: func(r *cte.Reject) error { return r }})
	if ingest = time.Since(before); err == nil && in.Accepted != b.n {
		err = fmt.Errorf("%d records were accepted", in.Accepted)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := b.servers.settle(name); err != nil {
		return 0, 0, err
	}
	before = time.Now()
	swept, err := e.Sweep(ctx, lifecycle.SweepOptions{})
	if sweep = time.Since(before); err == nil && swept.Archived != b.n {
		err = fmt.Errorf("%d records were archived", swept.Archived)
	}
	return ingest, sweep, err
}

// unlogged is a store whose log stays empty.
type unlogged struct{ lifecycle.Store }

func (unlogged) Sequence(context.Context) (int64, error)        { return 0, nil }
func (unlogged) LogIndex(context.Context, int64) (int64, error) { return 0, nil }
func (unlogged) LogState(context.Context) (lifecycle.LogState, error) {
	return lifecycle.LogState{}, nil
}
func (unlogged) LogHashes(context.Context, []int64) ([]tlog.Hash, error) { return nil, nil }
func (unlogged) Published(context.Context, string, int64) error          { return nil }
