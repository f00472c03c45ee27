package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const layout = "2006-01-02T15:04:05.000000000Z"

// stamp is a time as it is stored: of fixed width, so that text sorts as time.
func stamp(t time.Time) string { return t.UTC().Format(layout) }

// parseStamp reads what stamp writes, and nothing else: a time that somebody has
// edited must not read as long ago. A page has twenty thousand of them, and
// time.Parse takes four times as long.
func parseStamp(b []byte) (time.Time, error) {
	fail := func() (time.Time, error) { return time.Time{}, fmt.Errorf("a stored time reads %q", b) }
	if len(b) != len(layout) {
		return fail()
	}
	for i, want := range []byte(layout) {
		if isDigit := '0' <= b[i] && b[i] <= '9'; '0' <= want && want <= '9' {
			if !isDigit {
				return fail()
			}
		} else if b[i] != want {
			return fail()
		}
	}
	n := func(from, to int) (v int) {
		for _, c := range b[from:to] {
			v = v*10 + int(c-'0')
		}
		return v
	}
	year, month, day, hour, minute, second := n(0, 4), time.Month(n(5, 7)), n(8, 10), n(11, 13), n(14, 16), n(17, 19)
	t := time.Date(year, month, day, hour, minute, second, n(20, 29), time.UTC)
	// Date takes a 31 September for a 1 October.
	if year == 0 || t.Month() != month || t.Day() != day || hour > 23 || minute > 59 || second > 59 {
		return fail()
	}
	return t, nil
}

// columns reads the columns of one row in their order, in PostgreSQL's binary
// format. Text, whole numbers of any width, bytes and booleans are all there
// are. The first that is not what is asked for ends it, and is its err.
type columns struct {
	raw [][]byte
	at  int
	err error
}

var errColumns = errors.New("a stored value is not of its type")

func (c *columns) next() []byte {
	if c.at >= len(c.raw) {
		c.fail(errColumns)
		return nil
	}
	c.at++
	return c.raw[c.at-1]
}

func (c *columns) fail(err error) {
	if c.err == nil {
		c.err = fmt.Errorf("column %d: %w", c.at, err)
	}
}

func (c *columns) text() string { return string(c.next()) }

func (c *columns) int() int64 {
	switch b := c.next(); len(b) {
	case 8:
		return int64(binary.BigEndian.Uint64(b))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b)))
	case 1:
		return int64(b[0])
	}
	c.fail(errColumns)
	return 0
}

// bytes is a copy: what the connection has read is overwritten by the next row.
func (c *columns) bytes() []byte {
	b := c.next()
	if b == nil {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (c *columns) sum() (s [32]byte) {
	b := c.next()
	if len(b) != len(s) {
		c.fail(fmt.Errorf("a stored checksum has %d bytes, not %d", len(b), len(s)))
		return s
	}
	return [32]byte(b)
}

func (c *columns) time() time.Time {
	t, err := parseStamp(c.next())
	if err != nil {
		c.fail(err)
	}
	return t
}

// maybeTime is time for one that may not have come yet: ”, read as zero.
func (c *columns) maybeTime() time.Time {
	if c.at < len(c.raw) && c.raw[c.at] != nil && len(c.raw[c.at]) == 0 {
		c.at++
		return time.Time{}
	}
	return c.time()
}

// list is text with commas in between.
func (c *columns) list() []string {
	if s := c.text(); s != "" {
		return strings.Split(s, ",")
	}
	return nil
}

// querier is the pool, or a transaction.
type querier interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}

// each reads the rows of a query one by one.
func each(ctx context.Context, q querier, row func(*columns), sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)...)
	if err != nil {
		return denied(err)
	}
	defer rows.Close()
	c := columns{}
	for rows.Next() {
		c.raw, c.at = rows.RawValues(), 0
		if row(&c); c.err != nil {
			return c.err
		}
	}
	return denied(rows.Err())
}

// all reads the rows of a query.
func all[T any](ctx context.Context, q querier, scan func(*columns) T, sql string, args ...any) ([]T, error) {
	var out []T
	err := each(ctx, q, func(c *columns) { out = append(out, scan(c)) }, sql, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// one reads the first row of a query. pgx.ErrNoRows.
func one[T any](ctx context.Context, q querier, scan func(*columns) T, sql string, args ...any) (v T, err error) {
	vs, err := all(ctx, q, scan, sql, args...)
	if err == nil && len(vs) == 0 {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return v, err
	}
	return vs[0], nil
}
