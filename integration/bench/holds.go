package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
)

// onHolds measures how long it takes to place a hold while a sweep of all records,
// an ingest and an export run: on PostgreSQL and MinIO, and embedded.
func onHolds(b *bench) (err error) {
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
	made := filepath.Join(b.dir, "made.jsonl")
	if err := generateLineage(made, b.n/5); err != nil {
		return err
	}
	fmt.Printf("Holds: placed while a sweep of %d records, ingests of another %d with lineage, and exports run\n\n", b.n, b.n/5)
	fmt.Printf("%-24s %7s %8s %8s %8s %8s\n", "", "placed", "p50 ms", "p99 ms", "max ms", "during s")

	config, err := s.config()
	if err != nil {
		return err
	}
	for _, on := range []struct {
		name   string
		global []string
		open   func() (lifecycle.Store, error)
		most   float64 // ms
	}{
		{"PostgreSQL and MinIO", []string{"--config=" + config, "-o", "json"}, func() (lifecycle.Store, error) {
			return postgres.Open(context.Background(), postgres.Options{URL: s.database("lotkeeper")})
		}, 250},
		{"SQLite and a directory", []string{"--data=" + filepath.Join(b.dir, "embedded"), "-o", "json"}, func() (lifecycle.Store, error) {
			return sqlite.Open(context.Background(), filepath.Join(b.dir, "embedded", "lotkeeper.db"))
		}, 1000},
	} {
		b.global = on.global
		if _, err := b.lotkeeper("init"); err != nil {
			return err
		}
		if _, err := b.lotkeeper("ingest", input); err != nil {
			return err
		}
		store, err := on.open()
		if err != nil {
			return err
		}
		p99, err := b.placeHolds(on.name, store, made)
		if err = errors.Join(err, store.Close()); err != nil {
			return err
		}
		b.atMost("99th percentile of placing a hold, "+on.name+", ms", p99, on.most)
	}
	return nil
}

// placements is how many holds are placed at most: enough for a 99th percentile, and
// few enough that a sweep of a million records is still under way.
const placements = 1000

// placeHolds places one hold after the other while the sweep runs.
func (b *bench) placeHolds(name string, store lifecycle.Store, made string) (float64, error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	placing := &timedPlace{Store: store}
	e := &lifecycle.Engine{Store: placing, Now: time.Now, Log: zerolog.Nop(), Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "bench"}
	start := time.Now()
	swept := make(chan error, 1)
	go func() {
		_, err := b.quietly(ctx, "sweep")
		swept <- err
	}()
	others := make(chan error, 2)
	for _, args := range [][]string{{"ingest", made}, {"export", "--output=jsonl"}} {
		go func() {
			for {
				if out, err := b.quietly(ctx, args...); err != nil {
					if ctx.Err() != nil {
						err = nil
					} else {
						err = fmt.Errorf("%w\n%s", err, out)
					}
					others <- err
					return
				}
			}
		}()
	}
	var took []float64
	var open []string
	end := func(err error) (float64, error) {
		seconds := time.Since(start).Seconds()
		stop()
		if err = errors.Join(err, <-others, <-others); err != nil {
			return 0, err
		}
		p99 := percentiles(name, took, seconds)
		percentiles("  until it stands", placing.took, seconds)
		return p99, nil
	}
	for i := 0; ; i++ {
		if i == placements {
			stop()
			<-swept //nolint:errcheck // it was interrupted
			return end(nil)
		}
		select {
		case err := <-swept:
			return end(err)
		default:
		}
		before := time.Now()
		res, err := e.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a bench", Scopes: []lifecycle.Scope{benchScope(i)}})
		if err != nil {
			return 0, err
		}
		took = append(took, milliseconds(before))
		// Those that cover much would leave the sweep nothing to do, and of the others
		// there are a hundred at a time.
		if i%10 == 1 || i%10 == 3 || i%10 == 5 {
			open = append(open, res.HoldID)
			res.HoldID = ""
			if len(open) > 100 {
				res.HoldID, open = open[0], open[1:]
			}
		}
		if res.HoldID != "" {
			if err := e.Release(ctx, res.HoldID, "the bench goes on"); err != nil {
				return 0, err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

// percentiles prints a line of the table, and returns the 99th.
func percentiles(name string, took []float64, seconds float64) float64 {
	slices.Sort(took)
	at := func(p float64) float64 { return took[min(len(took)-1, int(p*float64(len(took))))] }
	fmt.Printf("%-24s %7d %8.0f %8.0f %8.0f %8.0f\n", name, len(took), at(.5), at(.99), took[len(took)-1], seconds)
	return at(.99)
}

// timedPlace times the part of placing a hold after which it stands; the rest counts
// what it covers.
type timedPlace struct {
	lifecycle.Store
	took []float64
}

func (s *timedPlace) Place(ctx context.Context, p lifecycle.Placement) error {
	before := time.Now()
	defer func() { s.took = append(s.took, milliseconds(before)) }()
	return s.Store.Place(ctx, p)
}

// benchScope is one of each kind; every tenth covers all records there are.
func benchScope(i int) lifecycle.Scope {
	lot := fmt.Sprintf("MADE-%06d", i*97%3000)
	if i < 40 {
		// Not before the sweep has planned: it would leave everything as it is.
		return lifecycle.Scope{TLC: lot, Trace: lifecycle.Both}
	}
	switch i % 10 {
	case 0:
		return lifecycle.Scope{EventType: cte.Shipping}
	case 1:
		return lifecycle.Scope{TLC: lot, Trace: lifecycle.Both}
	case 2:
		return lifecycle.Scope{TLC: lot, Trace: lifecycle.Forward}
	case 3:
		return lifecycle.Scope{RecordID: fmt.Sprintf("cte-%08d", i*7919)}
	case 4:
		return lifecycle.Scope{Location: fmt.Sprintf("FAC-%03d", i%300), Product: fmt.Sprintf("PC-%04d", i%700)}
	case 5:
		return lifecycle.Scope{TLC: lot}
	case 6:
		return lifecycle.Scope{All: true}
	case 7:
		return lifecycle.Scope{TLCPrefix: lot[:10], TLCSource: "https://id.example.com/1"}
	case 8:
		return lifecycle.Scope{Product: "PC-0001", Trace: lifecycle.Forward}
	}
	return lifecycle.Scope{RecordID: fmt.Sprintf("made-%08d", i*31), Trace: lifecycle.Backward}
}

// parent is the lot that one of a family of fifty was made from.
func parent(lot, n int) int { return lot - lot%50 + lot%50/n }

// quietly runs a command without measuring it.
func (b *bench) quietly(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.bin, append(b.global[:len(b.global):len(b.global)], args...)...)
	messages := new(strings.Builder)
	cmd.Dir, cmd.Stderr = b.dir, messages
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w", args[0], err)
	}
	return messages.String(), err
}

// generateLineage writes records that are not due, of lots that are made from one
// another.
func generateLineage(path string, n int) error {
	var w strings.Builder
	ts := time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)
	for i := range n {
		fmt.Fprintf(&w, `{"record_id":"made-%08d","traceability_lot_code":"MADE-%06d","event_type":"transformation","event_timestamp":%q,`+
			`"kde_payload":{"facility":"PLANT-1","product_code":"PC-%04d","quantity":%d},"input_lots":[{"traceability_lot_code":"MADE-%06d"},{"traceability_lot_code":"MADE-%06d"}]}`+"\n",
			i, i/3, ts, i%700, i%1000, parent(i/3, 2), parent(i/3, 7))
	}
	return os.WriteFile(path, []byte(w.String()), 0o600)
}
