package cte

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// The formats that Source.Format names.
const (
	FormatPipe  = "fda-psv" // FDA's columns, separated by |
	FormatComma = "fda-csv" // FDA's columns, separated by commas as in RFC 4180
)

// sheet is what tells one tab of FDA's electronic sortable spreadsheet from the
// others, and which of its columns says when the event was.
type sheet struct {
	eventType EventType
	date      string
	has       []string // besides date
	lacks     []string
}

// sheets has one row a tab. A header fits a row when it has the date column and
// all of has, and none of lacks; it must fit exactly one.
var sheets = []sheet{
	{Harvesting, "harvest_date", []string{"farm_business_name"}, []string{"tlc", "cooling_date"}},
	{Cooling, "cooling_date", []string{"farm_business_name"}, []string{"tlc"}},
	{InitialPacking, "packing_date", []string{"tlc", "farm_business_name"}, []string{"seed_description"}},
	{InitialPackingSprouts, "packing_date", []string{"tlc", "seed_description"}, nil},
	{InitialPackingFromExempt, "packing_date", []string{"tlc", "ips_business_name"}, []string{"farm_business_name", "seed_description"}},
	{FirstLandBasedReceiving, "landing_date", []string{"tlc"}, nil},
	{Shipping, "ship_date", []string{"tlc"}, nil},
	{Receiving, "receive_date", []string{"tlc", "receive_business_name"}, []string{"packing_date"}},
	{ReceivingFromExempt, "receive_date", []string{"tlc", "ips_business_name"}, []string{"receive_business_name", "packing_date"}},
	{Transformation, "transformation_date", []string{"new_tlc"}, nil},
}

func (s sheet) fits(columns map[string]int) bool {
	present := func(name string) bool { _, ok := columns[name]; return ok }
	return present(s.date) && !slices.ContainsFunc(s.has, func(name string) bool { return !present(name) }) &&
		!slices.ContainsFunc(s.lacks, present)
}

// layout is what the header line says about the rows below it.
type layout struct {
	sheet     sheet
	separator byte
	format    string
	header    string         // as it stands in the input
	columns   map[string]int // by name: lower case, without blanks around it
	quoted    []string       // the names as JSON, in column order
	names     []string

	// occurrences counts identical rows by the first 8 bytes of their hash. It is
	// the one thing that grows with the input: 20 to 40 bytes for every row that
	// differs from those before it, some 40 MB for a million.
	occurrences map[uint64]uint64

	// Of the current row: its cells, and space that is used again.
	cells []string
	hash  []byte
	kdes  []byte
}

// looksLikeHeader reports whether a line names at least two columns that FDA's
// spreadsheet has.
func looksLikeHeader(line []byte) bool {
	known := 0
	for _, cell := range bytes.FieldsFunc(line, func(r rune) bool { return r == '|' || r == ',' }) {
		name := columnName(string(cell))
		if slices.ContainsFunc(sheets, func(s sheet) bool { return s.date == name || slices.Contains(s.has, name) }) ||
			slices.Contains(sheetColumns, name) {
			known++
		}
	}
	return known >= 2
}

// sheetColumns are further columns that tell FDA's spreadsheet from other text.
var sheetColumns = []string{"commodity", "quantity", "uom", "product_name", "isr_business_name", "ref_doc_type", "ref_doc_number"}

func columnName(cell string) string {
	return strings.ToLower(strings.TrimSpace(strings.Trim(strings.TrimSpace(cell), `"`)))
}

// readLayout reads the header line.
func readLayout(lines *lineReader, eventType EventType) (*layout, error) {
	row, err := lines.next()
	if err != nil {
		return nil, err
	}
	l := &layout{
		separator:   '|',
		format:      FormatPipe,
		header:      string(row.text),
		columns:     make(map[string]int),
		occurrences: make(map[uint64]uint64),
	}
	if !strings.Contains(l.header, "|") {
		l.separator, l.format = ',', FormatComma
	}
	if !utf8.ValidString(l.header) {
		return nil, errors.New("the header line is not UTF-8; save the file as UTF-8")
	}
	cells, closed := splitCells(nil, l.header, l.separator)
	if !closed {
		return nil, errors.New("the header line has a quoted cell that is not closed, or is followed by text")
	}
	for i, cell := range cells {
		name := columnName(cell)
		if name == "" {
			return nil, fmt.Errorf("column %d of the header line has no name", i+1)
		}
		if first, twice := l.columns[name]; twice {
			return nil, fmt.Errorf("columns %d and %d of the header line are both named %s", first+1, i+1, quoteShort(name))
		}
		l.columns[name] = i
		l.names = append(l.names, name)
		l.quoted = append(l.quoted, string(appendString(nil, name)))
	}
	l.sheet, err = findSheet(l.columns, eventType)
	return l, err
}

// findSheet finds the tab that the columns belong to, or takes the one asked for.
func findSheet(columns map[string]int, eventType EventType) (sheet, error) {
	var fitting []sheet
	for _, s := range sheets {
		switch {
		case eventType == "" && s.fits(columns):
			fitting = append(fitting, s)
		case eventType == s.eventType:
			if _, ok := columns[s.date]; !ok {
				return sheet{}, fmt.Errorf("the header line has no column %s, which says when a %s event was", s.date, eventType)
			}
			return s, nil
		}
	}
	if eventType != "" {
		return sheet{}, fmt.Errorf("event type %s has no spreadsheet layout", quoteShort(string(eventType)))
	}
	if len(fitting) == 1 {
		return fitting[0], nil
	}
	var b strings.Builder
	if len(fitting) == 0 {
		b.WriteString("cannot tell the event type from the column names; looked for one of these:")
		fitting = sheets
	} else {
		b.WriteString("cannot tell the event type from the column names; these fit:")
	}
	for _, s := range fitting {
		fmt.Fprintf(&b, "\n  %s: %s", s.eventType, strings.Join(append([]string{s.date}, s.has...), ", "))
		if len(s.lacks) > 0 {
			fmt.Fprintf(&b, ", and not %s", strings.Join(s.lacks, ", "))
		}
	}
	b.WriteString("\nrename the columns, or say which it is with --event-type")
	return sheet{}, errors.New(b.String())
}

// nextDelimited reads the next row that has something in it.
func (r *Reader) nextDelimited() (row, *Record, *Reject, error) {
	for {
		row, refused, err := r.layout.next(&r.lines)
		if err != nil || refused != nil {
			return row, nil, refused, err
		}
		// A spreadsheet saved as text often ends in rows of separators alone.
		if slices.ContainsFunc(r.layout.cells, func(cell string) bool { return cell != "" }) {
			rec, refused := r.layout.record(string(row.text))
			return row, rec, refused, nil
		}
	}
}

// next consumes the next row that is not blank and splits it into l.cells.
//
// Over more than one line goes only a row that is whole at the end of the last.
// Else its first line is refused and reading resumes at the second: a stray quote
// costs one row and not the rest of the file.
func (l *layout) next(lines *lineReader) (row, *Reject, error) {
	for {
		r := row{line: lines.line}
		lineEnd, _, err := lines.lineEnd(0)
		if err == errTooLong {
			return r, tooLong(), lines.skipLine()
		}
		if err != nil {
			return r, nil, err
		}
		if len(bytes.TrimSpace(lines.buf[:lineEnd])) == 0 {
			lines.skip(lineEnd)
			continue
		}
		end := lineEnd
		if l.separator == ',' {
			if end, err = l.rowEnd(lines, lineEnd); err != nil {
				return r, nil, err
			}
		}
		r.text = trimNewline(lines.buf[:end:end])
		refused := l.split(string(r.text))
		if refused != nil && end != lineEnd {
			r.text, end = trimNewline(lines.buf[:lineEnd:lineEnd]), lineEnd
		}
		lines.skip(end)
		return r, refused, nil
	}
}

// rowEnd finds the end of the row whose first line ends at lineEnd. A row whose
// quotes are never closed ends with its first line.
func (l *layout) rowEnd(lines *lineReader, lineEnd int) (int, error) {
	var (
		end        = lineEnd
		scanned    = 0
		open       = false // within a quoted cell
		separators = 0     // in this line and within the quoted cell
	)
	for {
		for ; scanned < end; scanned++ {
			c := lines.buf[scanned]
			switch {
			case !open:
				open = c == '"' && (scanned == 0 || lines.buf[scanned-1] == l.separator)
			case c == '"' && scanned+1 < end && lines.buf[scanned+1] == '"':
				scanned++
			case c == '"':
				open = false
			case c == '\n':
				separators = 0
			case c == l.separator && scanned >= lineEnd:
				// A line within a quoted cell that could be a row by itself is
				// one: the quote was a stray, and another stray further down
				// must not make one cell of all the rows between them.
				if separators++; separators >= len(l.names)-1 {
					return lineEnd, nil
				}
			}
		}
		if !open {
			return end, nil
		}
		next, _, err := lines.lineEnd(end)
		switch {
		case err == io.EOF || err == errTooLong:
			return lineEnd, nil
		case err != nil:
			return 0, err
		}
		end = next
	}
}

// split splits a row into l.cells, as many as the header has.
func (l *layout) split(row string) *Reject {
	if !utf8.ValidString(row) {
		return refuse("", "utf8", "is not UTF-8; save the file as UTF-8")
	}
	var closed bool
	if l.cells, closed = splitCells(l.cells[:0], row, l.separator); !closed {
		return refuse("", "quote", "has a quoted cell that is not closed, or is followed by text")
	}
	if len(l.cells) != len(l.names) && l.separator == '|' {
		// Quotes that are text may look like quotes around several cells.
		l.cells = append(l.cells[:0], strings.Split(row, "|")...)
	}
	if len(l.cells) != len(l.names) {
		return refuse("", "columns", fmt.Sprintf("has %d cells, but the header has %d", len(l.cells), len(l.names)))
	}
	return nil
}

// splitCells appends the cells of a row to cells. In comma-separated text a cell
// that begins with a quote has to end with one (RFC 4180 section 2), and ok is
// false if one does not. In pipe-separated text quotes are mostly inches, minutes
// and seconds: there a cell is quoted only if it is well-formed so, and any other
// quote is text.
func splitCells(cells []string, row string, separator byte) (_ []string, ok bool) {
	for {
		cell, n, quoted := quotedCell(row, separator)
		if !quoted {
			if separator == ',' && strings.HasPrefix(row, `"`) {
				return cells, false
			}
			if n = strings.IndexByte(row, separator); n < 0 {
				n = len(row)
			}
			cell = row[:n]
		}
		cells = append(cells, cell)
		if n == len(row) {
			return cells, true
		}
		row = row[n+1:]
	}
}

// quotedCell reads the well-formed quoted cell that row begins with and returns
// its text and its length in row.
func quotedCell(row string, separator byte) (cell string, n int, ok bool) {
	if !strings.HasPrefix(row, `"`) {
		return "", 0, false
	}
	for n = 1; n < len(row); n++ {
		if row[n] != '"' {
			continue
		}
		if n+1 < len(row) && row[n+1] == '"' {
			n++
			continue
		}
		cell, n = strings.ReplaceAll(row[1:n], `""`, `"`), n+1
		return cell, n, n == len(row) || row[n] == separator
	}
	return "", 0, false
}

// record makes a record of the row that was split last.
func (l *layout) record(row string) (*Record, *Reject) {
	rec := &Record{
		RecordID:  l.identify(),
		TLC:       cmp.Or(l.given("new_tlc"), l.given("tlc")),
		TLCSource: lineBreaks.Replace(cmp.Or(l.given("tlc_source_reference"), l.given("tlc_source_business_name"))),
		EventType: l.sheet.eventType,
		KDEs:      l.object(),
		Source:    &Source{Format: l.format, Header: l.header, Row: row},
	}
	rec.defaulted.add(fieldCreatedOrObtainedAt)
	if tlc := l.given("input_tlc"); tlc != "" {
		rec.InputLots = []Lot{{TLC: tlc}}
	}
	var problem string
	if rec.EventTimestamp, problem = parseEventDate(l.given(l.sheet.date)); problem != "" {
		refused := refuse(l.sheet.date, "date", problem)
		refused.RecordID = rec.RecordID
		return nil, refused
	}
	return rec, nil
}

// lineBreaks makes one line of a business name that a spreadsheet broke: it is no
// fault in a name, as it is in a lot code.
var lineBreaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ")

// given returns the text of a cell without blanks around it, or "" when there is no
// such column or it says that there is nothing.
func (l *layout) given(column string) string {
	i, ok := l.columns[column]
	if !ok || notGiven([]byte(l.cells[i])) {
		return ""
	}
	return strings.TrimSpace(l.cells[i])
}

// notGiven reports whether a text says that there is nothing to say: it is empty,
// or "n/a", or "n/a (reason)", as FDA's sample workbook writes it.
func notGiven(text []byte) bool {
	text = bytes.TrimSpace(text)
	if len(text) < 3 || !strings.EqualFold(string(text[:3]), "n/a") {
		return len(text) == 0
	}
	reason := bytes.TrimSpace(text[3:])
	return len(reason) == 0 || reason[0] == '('
}

// object is the KDEs of the row: an object of column name and cell, in column
// order, with all cells that are not empty. What a cell holds stays as it is.
func (l *layout) object() jsontext.Value {
	l.kdes = append(l.kdes[:0], '{')
	for i, cell := range l.cells {
		if cell != "" {
			l.kdes = append(append(appendComma(l.kdes), l.quoted[i]...), ':')
			l.kdes = appendString(l.kdes, cell)
		}
	}
	return bytes.Clone(append(l.kdes, '}'))
}

// identify returns the record id of the row, which has none of its own: the SHA-256,
// in lower-case hex, of these texts one after the other, each as its length in
// bytes in decimal, a colon, and the text:
//
//	the event type
//	each cell of the row in column order, unquoted, also the empty ones
//	the row's occurrence number in decimal: 1, and n for the nth row of this
//	input with the same cells
//
// So the same file read again gives the same ids, and rows that repeat each other
// are separate records.
func (l *layout) identify() string {
	text := appendNetstring(l.hash[:0], string(l.sheet.eventType))
	for _, cell := range l.cells {
		text = appendNetstring(text, cell)
	}
	cells := sha256.Sum256(text)
	// Two rows that share 8 bytes of a hash would share a count: the numbers
	// change, the ids stay apart, because the cells are part of them.
	key := binary.BigEndian.Uint64(cells[:8])
	l.occurrences[key]++
	text = appendNetstring(text, strconv.FormatUint(l.occurrences[key], 10))
	l.hash = text
	id := sha256.Sum256(text)
	return hex.EncodeToString(id[:])
}

func appendNetstring(dst []byte, s string) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	return append(append(dst, ':'), s...)
}

// parseEventDate reads the date of an event, or says what is wrong with it.
//
// A date is mm/dd/yyyy (FDA's form; one digit will do), yyyy-mm-dd, or that with
// 00:00:00, which is how a spreadsheet prints a date cell. It becomes 12:00 UTC of
// the following day: the day's end at UTC-12, the last place on earth where it is
// still that day, so that no clock on it starts early. A full RFC 3339 time is taken as
// it is.
func parseEventDate(s string) (_ time.Time, problem string) {
	var year, month, day string
	slashed := strings.Split(s, "/")
	switch {
	case s == "":
		return time.Time{}, "is missing; without it there is no time of the event"
	case len(slashed) == 3 && isNumber(slashed[0], 1, 2) && isNumber(slashed[1], 1, 2) && isNumber(slashed[2], 4, 4):
		month, day, year = slashed[0], slashed[1], slashed[2]
	case matches(s, "dddd-dd-dd"), strings.HasSuffix(s, " 00:00:00") && matches(s[:len(s)-9], "dddd-dd-dd"):
		year, month, day = s[:4], s[5:7], s[8:10]
	case len(s) > 10 && (s[10] == 'T' || s[10] == 't'):
		t, err := ParseTime(s)
		if err != nil {
			return time.Time{}, err.Error()
		}
		return t, ""
	case len(s) > 10 && s[10] == ' ' && strings.Contains(s[11:], ":"):
		return time.Time{}, "date " + quoteShort(s) + " has a time of day without an offset; wanted is the date alone, or an RFC 3339 time"
	default:
		return time.Time{}, "date " + quoteShort(s) + " is not mm/dd/yyyy, yyyy-mm-dd or an RFC 3339 time"
	}
	if problem := dateProblem(number(year), number(month), number(day)); problem != "" {
		return time.Time{}, "date " + quoteShort(s) + " " + problem
	}
	t := time.Date(number(year), time.Month(number(month)), number(day)+1, 12, 0, 0, 0, time.UTC)
	if t.Year() > 9999 {
		return time.Time{}, "date " + quoteShort(s) + " ends after the year 9999 in UTC"
	}
	return t, ""
}

func isNumber(s string, atLeast, atMost int) bool {
	return atLeast <= len(s) && len(s) <= atMost && matches(s, "dddd"[:len(s)])
}
