package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lotkeeper/lotkeeper/shred"
)

// keyring opens each class key once for the length of one command, and each
// period's class once. It belongs to one goroutine.
type keyring struct {
	e    *Engine
	keys map[string]*shred.ClassKey
	open map[Period]string
}

func (e *Engine) keyring() *keyring {
	return &keyring{e: e, keys: map[string]*shred.ClassKey{}, open: map[Period]string{}}
}

// key opens a class key. shred.ErrDestroyed comes through.
func (k *keyring) key(ctx context.Context, class string) (*shred.ClassKey, error) {
	if key := k.keys[class]; key != nil {
		return key, nil
	}
	key, err := k.e.Keys.Open(ctx, class)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the key of class %s: %w", class, err)
	}
	k.keys[class] = key
	return key, nil
}

// ask opens a class's key, and fails only where the key store cannot say now: that a key
// is not there, or destroyed, is an answer, which whoever needs it meets with again.
func (k *keyring) ask(ctx context.Context, class string) error {
	_, err := k.key(ctx, class)
	if errors.Is(err, shred.ErrDestroyed) || errors.Is(err, shred.ErrUnknownKey) {
		return nil
	}
	return err
}

// forget lets go of keys before they are destroyed.
func (k *keyring) forget(classes []string) {
	for _, c := range classes {
		delete(k.keys, c)
	}
}

// classes finds the open class of each period, and opens the next generation
// where there is none: a key first, durable in every copy of the keyring, then
// its row. A crash in between leaves a key that the next attempt finds.
func (k *keyring) classes(ctx context.Context, runID string, periods []Period) error {
	var unknown []Period
	for _, p := range periods {
		if k.open[p] == "" && !slices.Contains(unknown, p) {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	latest, err := k.e.Store.LatestClasses(ctx, unknown)
	if err != nil {
		return err
	}
	var fresh []Class
	var ids []string
	for _, p := range unknown {
		c, ok := latest[p]
		if ok && c.State == Open {
			k.open[p] = c.ID
			continue
		}
		n := c.Generation + 1
		fresh = append(fresh, Class{ID: p.ID(n), Period: p, Generation: n, State: Open})
		ids = append(ids, p.ID(n))
	}
	if len(fresh) == 0 {
		return nil
	}
	epoch, err := k.e.Keys.Create(ctx, ids)
	if errors.Is(err, shred.ErrDestroyed) {
		return restored(err)
	}
	if err != nil {
		return fmt.Errorf("couldn't create %d class keys: %w", len(ids), err)
	}
	leaf := k.e.leaf(k.e.Now(), ActionClassOpened, runID, "", map[string]any{"classes": ids, "epoch": epoch})
	if err := k.e.Store.OpenClasses(ctx, fresh, epoch, leaf); err != nil {
		return err
	}
	for _, c := range fresh {
		k.open[c.Period] = c.ID
	}
	return nil
}

// closed forgets that classes were open.
func (k *keyring) closed(classes []string) {
	for p, id := range k.open {
		if slices.Contains(classes, id) {
			delete(k.open, p)
		}
	}
}

// restored says that the database knows less than the keyring.
func restored(err error) error {
	return &Refused{
		Check:  "keyring",
		Reason: fmt.Sprintf("the keyring has destroyed a class of which the database has no intent (%v): the database is an older copy, put back", err),
		Hint:   "put back the newest copy of the database; what was shredded since this one was made cannot be read from it",
	}
}

// CheckKeyring compares the keyring with what the database has logged of it.
// An older keyring that was put back would bring destroyed keys to life, an
// older database would send records into classes whose keys are gone: both are
// refused.
//
// The two are read one after the other, and another process may have opened or
// destroyed a class in between, which would look like an older copy. No such
// change is without its leaf: if there is a new one, they are read again.
func (e *Engine) CheckKeyring(ctx context.Context) error {
	for {
		before, err := e.Store.Info(ctx)
		if err != nil {
			return err
		}
		refusal := e.checkKeyring(ctx, before)
		if refusal == nil {
			return nil
		}
		after, err := e.Store.Info(ctx)
		if err != nil {
			return err
		}
		if after.NewestLeaf.ID == before.NewestLeaf.ID {
			return refusal
		}
	}
}

// checkWitness refuses a keyring that another database was made with. Two that were
// made side by side are of one epoch, and have no class yet that could tell.
func (e *Engine) checkWitness(ctx context.Context, status shred.Status) error {
	o, err := e.origin(ctx)
	if err != nil {
		return err
	}
	if _, ok := slices.BinarySearch(status.Live, o.Witness); ok || o.Witness == "" {
		return nil
	}
	return &Refused{
		Check:  "keyring",
		Reason: "the keyring is another database's: it is not the one that this one was made with",
		Hint:   "check that the configuration names the right directory, and put back the keyring that belongs to this database",
	}
}

func (e *Engine) checkKeyring(ctx context.Context, info Info) error {
	status, err := e.Keys.Status(ctx)
	if err != nil {
		return fmt.Errorf("couldn't read the keyring: %w", err)
	}
	classes, err := e.Store.Classes(ctx, false)
	if err != nil {
		return err
	}
	var destroyed, open []string
	known := make(map[string]bool, len(classes))
	for _, c := range classes {
		known[c.ID] = true
		switch c.State {
		case Destroyed:
			destroyed = append(destroyed, c.ID)
		case Open, Condemned:
			open = append(open, c.ID)
		}
	}
	if err := e.checkWitness(ctx, status); err != nil {
		return err
	}
	if err := status.Regressed(info.Epoch, destroyed); err != nil {
		return &Refused{
			Check:  "keyring",
			Reason: fmt.Sprintf("an older copy of the keyring has been put back (%v)", err),
			Hint:   "put back the newest keyring, or type: lotkeeper shred recover",
		}
	}
	for _, id := range open {
		if _, ok := slices.BinarySearch(status.Destroyed, id); ok {
			return restored(fmt.Errorf("class %s", id))
		}
	}
	// A key without a row may be what a crash has left of an opening; a destroyed
	// one had a row, and with it an intent, a member, a copy.
	for _, id := range status.Destroyed {
		if !known[id] {
			return restored(fmt.Errorf("class %s, which it does not know", id))
		}
	}
	for _, id := range open {
		if _, ok := slices.BinarySearch(status.Live, id); !ok {
			return &Refused{
				Check:  "keyring",
				Reason: fmt.Sprintf("class %s is open in the database and its key is not in the keyring", id),
				Hint:   "check that --data names the right directory, and put back the newest keyring",
			}
		}
	}
	for _, c := range status.Copies {
		// A key that lives on in a copy out of reach is not destroyed, and one
		// that is in a single copy of two is not safe.
		if c.Problem != "" {
			return &Refused{
				Check:  "keyring",
				Reason: fmt.Sprintf("the copy in %s is not in order: %s", c.Path, c.Problem),
				Hint:   "mount or mend it and try again; lotkeeper shred status shows every copy",
			}
		}
	}
	return nil
}
