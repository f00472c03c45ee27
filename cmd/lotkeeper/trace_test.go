package main

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func draw(t *testing.T, output string, c lifecycle.Chain) string {
	t.Helper()
	var b bytes.Buffer
	a := &app{out: bufio.NewWriter(&b), width: 80}
	a.Output = output
	var err error
	if output == "dot" {
		err = chainDot(a, c)
	} else {
		err = result(a, c, func(s *screen) { chainTree(s, c) })
	}
	if err != nil {
		t.Fatal(err)
	}
	a.out.Flush()
	return b.String()
}

// chain makes one of links "from to"; the first lot is the one asked for. A lot is
// its code, or code@source.
func chain(direction lifecycle.Trace, links ...[2]string) lifecycle.Chain {
	c := lifecycle.Chain{Direction: direction}
	at := map[string]bool{}
	lot := func(s string) {
		if !at[s] {
			at[s] = true
			code, source := split(s)
			c.Lots = append(c.Lots, lifecycle.ChainLot{TLC: code, TLCSource: source, Steps: min(len(c.Lots), 1), Records: 1})
		}
	}
	for _, l := range links {
		lot(l[0])
		lot(l[1])
		in, inSource := split(l[0])
		out, outSource := split(l[1])
		c.Links = append(c.Links, lifecycle.ChainLink{InputTLC: in, InputSource: inSource, OutputTLC: out, OutputSource: outSource, RecordID: "r-" + out})
	}
	return c
}

func split(s string) (code, source string) {
	for i, r := range s {
		if r == '@' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func TestChainTree(t *testing.T) {
	for _, test := range []struct {
		name string
		c    lifecycle.Chain
		want string
	}{
		{"alone", lifecycle.Chain{Direction: lifecycle.Both, Lots: []lifecycle.ChainLot{{TLC: "A", Records: 2, Holds: []string{"hold-1", "hold-2"}}}}, `
LOT  SOURCE  RECORDS  HOLDS
A                  2  [1][2]

[1] hold-1
[2] hold-2
`},
		{"diamond", chain(lifecycle.Forward, [2]string{"A", "B"}, [2]string{"A", "C"}, [2]string{"B", "D"}, [2]string{"C", "D"}, [2]string{"D", "E"}), `
LOT                    SOURCE  RECORDS  HOLDS
A                                    1
  -> B                               1
     -> D                            1
        -> E                         1
  -> C                               1
     -> D (see above)                1
`},
		{"cycle", chain(lifecycle.Both, [2]string{"A", "B"}, [2]string{"B", "A"}, [2]string{"A", "A"}), `
LOT                    SOURCE  RECORDS  HOLDS
A                                    1
  -> B                               1
     -> A (see above)                1
  -> A (see above)                   1
`},
		{"siblings, from one of them", func() lifecycle.Chain {
			c := chain(lifecycle.Both, [2]string{"I", "O1"}, [2]string{"I", "O2"})
			c.Lots[0].Steps, c.Lots[1].Steps = 1, 0
			return c
		}(), `
LOT         SOURCE  RECORDS  HOLDS
O1                        1
  <- I                    1
     -> O2                1
`},
		{"backward", func() lifecycle.Chain {
			c := chain(lifecycle.Backward, [2]string{"A", "B"}, [2]string{"A2", "B"})
			c.Lots[0].Steps, c.Lots[1].Steps = 1, 0
			return c
		}(), `
LOT      SOURCE  RECORDS  HOLDS
B                      1
  <- A                 1
  <- A2                1
`},
		{"a source that is lacking stands for any", func() lifecycle.Chain {
			c := chain(lifecycle.Forward, [2]string{"A@S", "B"})
			c.Links[0].InputSource = ""
			return c
		}(), `
LOT     SOURCE  RECORDS  HOLDS
A       S             1
  -> B                1
`},
	} {
		if got := draw(t, "table", test.c); "\n"+got != test.want {
			t.Errorf("%s:\n%s\nwant:%s", test.name, got, test.want)
		}
	}
}

// No code can end a label, begin an escape, or reach the terminal.
func TestChainDot(t *testing.T) {
	c := chain(lifecycle.Forward, [2]string{`a"b\`, "c\nd"})
	c.Lots[1].Holds = []string{"hold-1"}
	want := `digraph chain {
  rankdir=LR
  node [shape=box]
  n0 [label="a\"b\\\n1 record", penwidth=2]
  n1 [label="c\\x0ad\n1 record\nhold-1"]
  n0 -> n1 [label="r-c\\x0ad"]
}
`
	if got := draw(t, "dot", c); got != want {
		t.Errorf("%s\nwant:\n%s", got, want)
	}
}
