package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// Sizes in millimetres on A4, and of type in points.
const (
	margin   = 16.0
	labelled = 42.0 // width of the labels
	paper    = 210.0
	inner    = paper - 2*margin
	body     = 8.0
	leading  = 3.5
)

// maxListed is how many segments and disclosures are printed; the attached receipt has
// all of them.
const maxListed = 12

// ReceiptPDF prints a receipt as a certificate to sign, with the signed note attached to
// it: that is what can be verified, the page only shows it. The same receipt always
// gives the same bytes.
func ReceiptPDF(w io.Writer, r *lifecycle.Receipt, msg []byte) error {
	issued, err := cte.ParseTime(r.IssuedAt)
	if err != nil {
		return fmt.Errorf("couldn't read when the receipt was issued: %w", err)
	}
	glyphs, err := sfnt.Parse(goregular.TTF)
	if err != nil {
		return fmt.Errorf("couldn't read the font: %w", err)
	}
	p := &sheet{Fpdf: fpdf.New("P", "mm", "A4", ""), glyphs: glyphs}
	p.SetCreationDate(issued)
	p.SetModificationDate(issued)
	p.SetCatalogSort(true)
	p.SetTitle("Certificate of sanitization: class key "+r.ClassID, true)
	p.SetProducer(r.Software, true)
	p.AddUTF8FontFromBytes("go", "", goregular.TTF)
	p.AddUTF8FontFromBytes("go", "B", gobold.TTF)
	p.AddUTF8FontFromBytes("mono", "", gomono.TTF)
	p.SetMargins(margin, margin-4, margin)
	p.SetAutoPageBreak(true, margin-1)
	p.SetAttachments([]fpdf.Attachment{{Content: msg, Filename: "receipt-" + r.ClassID + ".note", Description: "The receipt as a signed note"}})
	sum := sha256.Sum256(msg)
	p.AliasNbPages("")
	p.SetFooterFunc(func() {
		p.SetY(-12)
		p.font("", 6.5, grey)
		p.CellFormat(inner-20, 4, "class "+r.ClassID+", SHA-256 of the signed receipt "+hex.EncodeToString(sum[:]), "", 0, "L", false, 0, "")
		p.CellFormat(20, 4, fmt.Sprintf("page %d of {nb}", p.PageNo()), "", 0, "R", false, 0, "")
	})
	p.AddPage()
	p.receipt(r)
	if err := p.Output(w); err != nil {
		return fmt.Errorf("couldn't print the receipt of class %s: %w", r.ClassID, err)
	}
	return nil
}

// sheet is a page that is being written, from the top down.
type sheet struct {
	*fpdf.Fpdf
	glyphs *sfnt.Font
	buf    sfnt.Buffer
}

const (
	black = 20
	grey  = 105
)

func (p *sheet) font(style string, size float64, shade int) {
	p.SetFont("go", style, size)
	p.SetTextColor(shade, shade, shade)
}

// text replaces what the font has no letter for by its number.
func (p *sheet) text(s string) string {
	var b strings.Builder
	for _, r := range s {
		if g, err := p.glyphs.GlyphIndex(&p.buf, r); err != nil || g == 0 {
			fmt.Fprintf(&b, "<U+%04X>", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (p *sheet) head(title string) {
	// Not alone at the foot of a page.
	if _, height := p.GetPageSize(); p.GetY() > height-margin-12 {
		p.AddPage()
	}
	p.Ln(1.2)
	p.font("B", 8.5, black)
	p.CellFormat(inner, 4.6, title, "B", 1, "L", false, 0, "")
	p.Ln(0.7)
}

// field prints a name and its value, which may take several lines.
func (p *sheet) field(name, value string) { p.fieldIn("go", name, value) }

func (p *sheet) fieldIn(font, name, value string) {
	if value == "" {
		return
	}
	p.font("", body, grey)
	p.CellFormat(labelled, leading, name, "", 0, "L", false, 0, "")
	p.SetFont(font, "", body)
	if font == "mono" {
		p.SetFont(font, "", body-1)
	}
	p.SetTextColor(black, black, black)
	p.SetLeftMargin(margin + labelled)
	p.MultiCell(inner-labelled, leading, p.text(value), "", "L", false)
	p.SetLeftMargin(margin)
	p.SetX(margin)
}

// items prints a list; what is too much for it is counted.
func (p *sheet) items(name string, items []string) {
	if more := len(items) - maxListed; more > 0 {
		items = append(slices.Clone(items[:maxListed]), fmt.Sprintf("and %d more, which the attached receipt lists", more))
	}
	for _, item := range items {
		p.field(name, item)
		name = ""
	}
}

func (p *sheet) receipt(r *lifecycle.Receipt) {
	p.font("B", 16, black)
	p.CellFormat(inner-34, 8, "Certificate of sanitization", "", 0, "L", false, 0, "")
	shade := map[lifecycle.ReceiptStatus][3]int{lifecycle.ReceiptFinal: {30, 110, 60}, lifecycle.ReceiptPending: {165, 90, 0}}[r.Status]
	p.SetFont("go", "B", 11)
	p.SetFillColor(shade[0], shade[1], shade[2])
	p.SetTextColor(255, 255, 255)
	p.CellFormat(34, 8, strings.ToUpper(string(r.Status)), "", 1, "C", true, 0, "")
	p.font("", 9, grey)
	p.CellFormat(inner, 5, "A class key was destroyed (fields as in NIST SP 800-88 Rev. 1, Appendix G)", "", 1, "L", false, 0, "")
	p.Ln(1)

	p.field("Status", status(r))
	p.items("Pending, because", r.Pending)

	p.head("Media")
	p.field("Type", fmt.Sprintf("%s, %d bytes", r.Media.Type, r.Media.KeyBytes))
	p.field("Serial number", r.ClassID)
	p.field("Kind, period", fmt.Sprintf("%s, from %s to %s", r.Kind, seconds(r.PeriodStart), seconds(r.PeriodEnd)))
	wrapped := "the data keys of"
	if !ofHotCopies(r) {
		wrapped = "the identities of the segments of"
	}
	p.field("It wrapped", fmt.Sprintf("%s %s; moved to later keys before: %d", wrapped, records(r.Media.Records), r.Media.Moved))
	p.field("Backed up", backedUp(r))
	p.items("Places of the key store", each(r.Media.Copies, func(c lifecycle.ReceiptCopy) string {
		return strings.TrimSuffix(fmt.Sprintf("%s, epoch %d; %s", c.Path, c.Epoch, c.Problem), "; ")
	}))
	segments := "Archived copies"
	if !ofHotCopies(r) {
		segments = "Segments"
	}
	p.items(segments, each(r.Media.Segments, segmentLine))

	p.head("Sanitization")
	p.field("Method, technique", r.Sanitization.Method+", "+r.Sanitization.Technique)
	p.field("Tool", r.Sanitization.Tool)
	p.field("Verification", r.Sanitization.Verification)
	p.field("Destroyed", seconds(r.DestroyedAt))
	p.field("Announced, last check", seconds(r.Sanitization.CondemnedAt)+", "+seconds(r.Sanitization.ExecutingAt))
	p.field("Run", r.Sanitization.RunID)
	p.field("Epoch of the key store", fmt.Sprint(r.Media.Epoch))
	p.items("Destroyed again", each(r.Again, func(a lifecycle.ReceiptAgain) string {
		return fmt.Sprintf("%s by %s, %s: %s, for an older key store had been put back", seconds(a.At), a.Actor, entry(a.Index), a.Action)
	}))
	who := r.Person.Actor + ", by the program's word alone: nobody has authenticated it"
	if r.Person.Authenticated {
		who = fmt.Sprintf("%s, database role %s, authenticated by the server", r.Person.Actor, r.Person.Role)
	}
	p.field("Performed by", who)
	p.field("Destination", "the key store and the database stay in use; sweeps delete what the key had encrypted")

	p.head("Proof")
	p.field("Log", r.Log)
	p.fieldIn("mono", "Public key", r.LogKey)
	p.fieldIn("mono", "Policy (SHA-256)", r.Sanitization.PolicyHash)
	p.items("Entries", each(r.Steps, func(s lifecycle.ReceiptStep) string {
		return fmt.Sprintf("%s is entry %d, in the checkpoint of %d entries in vault %s", s.Action, s.Index, s.Size, s.Vault)
	}))
	for _, s := range r.Steps {
		if s.Entry != nil && s.Action != lifecycle.ActionShredExecuting {
			lines := strings.Split(s.Entry.Checkpoint, "\n")
			p.fieldIn("mono", fmt.Sprintf("Root at %d entries", s.Size), lines[min(2, len(lines)-1)])
		}
	}

	p.head("Disclosures")
	p.items("Given out", each(r.Disclosures, disclosureLine))
	if len(r.Disclosures) == 0 {
		p.field("Given out", "the log has none of records of this class")
	}

	p.head("Not covered by this certificate")
	for _, s := range r.NotCovered {
		p.dash(s)
	}
	p.head("Not stated")
	for _, s := range r.NotStated {
		p.dash(s.Field + ": " + s.Why)
	}

	p.signatures(r)
}

func (p *sheet) dash(s string) {
	p.font("", body, black)
	p.CellFormat(4, leading, "–", "", 0, "L", false, 0, "")
	p.SetLeftMargin(margin + 4)
	p.MultiCell(inner-4, leading, p.text(s), "", "L", false)
	p.SetLeftMargin(margin)
	p.SetX(margin)
}

// signatures are the lines for those whom the program cannot know.
func (p *sheet) signatures(r *lifecycle.Receipt) {
	const line, gap = 6.2, 8.0
	lines := []string{"Name, title", "Organization", "Location, phone", "Signature, date"}
	if _, height := p.GetPageSize(); p.GetY()+float64(len(lines))*line+22 > height-margin {
		p.AddPage()
	}
	p.head("Attestation")
	p.font("", body, black)
	p.MultiCell(inner, leading, p.text(fmt.Sprintf("Issued at %s by %s with %s. The signed receipt is attached to this file as receipt-%s.note and is what counts; "+
		"to take it out, type pdfdetach -saveall FILE; to verify it, lotkeeper receipt verify --log-key KEY FILE.", seconds(r.IssuedAt), r.IssuedBy, r.Software, r.ClassID)), "", "L", false)
	p.Ln(1)
	width := (inner - gap) / 2
	p.font("B", body, black)
	p.CellFormat(width+gap, line, "Attested by, to the best of my knowledge", "", 0, "L", false, 0, "")
	p.CellFormat(width, line, "Validated by", "", 1, "L", false, 0, "")
	p.font("", body, grey)
	p.SetDrawColor(150, 150, 150)
	for _, name := range lines {
		for _, x := range []float64{margin, margin + width + gap} {
			p.SetX(x)
			p.CellFormat(width, line, name, "B", 0, "L", false, 0, "")
		}
		p.Ln(line)
	}
}

func ofHotCopies(r *lifecycle.Receipt) bool {
	return r.Kind == lifecycle.HotClass || r.Kind == lifecycle.DeferralClass
}

func status(r *lifecycle.Receipt) string {
	switch {
	case r.Status == lifecycle.ReceiptFinal:
		return fmt.Sprintf("final since %s: by then the last backup of the key had to be gone", seconds(r.FinalAt))
	case r.FinalAt == "":
		return "pending, without a date: until it is known how long backups are kept"
	}
	return fmt.Sprintf("pending until %s: a backup of the key may be there, and opens what it wrapped", seconds(r.FinalAt))
}

func backedUp(r *lifecycle.Receipt) string {
	if r.BackupRetentionDays == 0 {
		return "not known"
	}
	return fmt.Sprintf("by policy and configuration, backups are kept for %d days", r.BackupRetentionDays)
}

func segmentLine(s lifecycle.ReceiptSegment) string {
	last := ""
	for _, o := range s.Objects {
		last = max(last, o.LockedUntil)
	}
	return fmt.Sprintf("%s: %s, %s (%s), copies %d, locked to %s", s.SegmentID, records(s.Records), s.Class, s.ClassState, len(s.Objects), strings.TrimSuffix(seconds(last), " 00:00:00Z"))
}

func disclosureLine(d lifecycle.ReceiptDisclosure) string {
	if d.Kind == lifecycle.DisclosedByIdentity {
		return fmt.Sprintf("%s, %s: %s was given what opens segment %s with %s of this class", entry(d.Index), seconds(d.At), d.Actor, d.ID, records(d.Records))
	}
	given := "its end is not in the log"
	if d.Given != nil {
		given = fmt.Sprintf("in all it gave %d", *d.Given)
	}
	return fmt.Sprintf("%s, %s: %s exported at most %s of this class; %s", entry(d.Index), seconds(d.At), d.Actor, records(d.Records), given)
}

func entry(index int64) string {
	if index < 0 {
		return "not in the tree yet"
	}
	return fmt.Sprintf("entry %d", index)
}

func records(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}

// seconds leaves the fractions to the attached receipt.
func seconds(stamp string) string {
	at, err := cte.ParseTime(stamp)
	if err != nil {
		return stamp
	}
	return at.Format("2006-01-02 15:04:05Z")
}

func each[T any](values []T, line func(T) string) []string {
	var out []string
	for _, v := range values {
		out = append(out, line(v))
	}
	return out
}
