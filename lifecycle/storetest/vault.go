package storetest

import (
	"errors"
	"fmt"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (k *kit) addVault(name string) {
	k.Helper()
	k.ok(k.AddVault(k.ctx, name, leaf(lifecycle.ActionVaultAdded)))
}

// vaultIs wants a vault's state, and how many live segments it has and lacks.
func (k *kit) vaultIs(name string, state lifecycle.VaultState, copies, missing int64) lifecycle.VaultRow {
	k.Helper()
	all, err := k.Store.Vaults(k.ctx)
	k.ok(err)
	for _, v := range all {
		if v.Name != name {
			continue
		}
		if v.State != state || v.Copies != copies || v.Missing != missing || !v.Since.Equal(Start) {
			k.Errorf("vault %+v, want %s with %d copies and %d missing", v, state, copies, missing)
		}
		return v
	}
	k.Fatalf("vault %s is not among %+v", name, all)
	return lifecycle.VaultRow{}
}

func (k *kit) moved(what string, err error) {
	k.Helper()
	if !errors.Is(err, lifecycle.ErrMoved) {
		k.Errorf("%s: %v, want ErrMoved", what, err)
	}
}

// vaults: added before anything is archived they count at once, each once.
func vaults(k *kit) {
	if all, err := k.Store.Vaults(k.ctx); err != nil || len(all) > 0 {
		k.Fatalf("vaults of a new database: %+v, %v", all, err)
	}
	k.addVault("main")
	k.addVault("cold")
	k.vaultIs("cold", lifecycle.ActiveVault, 0, 0)
	k.unchanged("adding a vault again", func() { k.addVault("main") })
	k.unchanged("activating an active vault", func() {
		k.moved("activating", k.ActivateVault(k.ctx, "main", leaf(lifecycle.ActionVaultActive)))
		k.moved("activating nothing", k.ActivateVault(k.ctx, "nobody", leaf(lifecycle.ActionVaultActive)))
	})
	all, err := k.Store.Vaults(k.ctx)
	k.ok(err)
	if len(all) != 2 || all[0].Name != "cold" || all[1].Name != "main" || !all[0].LockedUntil.IsZero() {
		k.Errorf("vaults %+v, want cold and main", all)
	}
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionVaultAdded}})
	k.ok(err)
	if len(ls) != 2 {
		k.Errorf("%d leaves for two vaults", len(ls))
	}
}

// vaultJoins: a vault added later counts only once it has every live segment,
// and from then on no segment is verified without it.
func vaultJoins(k *kit) {
	k.addVault("main")
	k.addVault("cold")
	var rows []lifecycle.Sealed
	for i := range 3 {
		rows = append(rows, row(fmt.Sprint("r-", i), expired))
	}
	k.take(rows...)
	k.begin()
	class := rows[0].ArchiveClass
	k.archive("seg-1", rows[0])
	k.verified("seg-2", class, 1)
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-3", class, 1), leaf(lifecycle.ActionStaged)))
	k.addVault("new")
	k.vaultIs("new", lifecycle.Joining, 0, 2)
	main := k.vaultIs("main", lifecycle.ActiveVault, 2, 0)
	if want := copies()[1].RetainUntil; !main.LockedUntil.Equal(want) {
		k.Errorf("main is locked until %s, want %s", main.LockedUntil, want)
	}

	in := func(vault string) lifecycle.Copy {
		c := copies()[0]
		c.Vault, c.ObjectVersion = vault, "of "+vault
		return c
	}
	copied := leaf(lifecycle.ActionVaultCopied)
	k.unchanged("what cannot be", func() {
		k.moved("activating what lacks two", k.ActivateVault(k.ctx, "new", leaf(lifecycle.ActionVaultActive)))
		k.moved("a copy of a staged segment", k.AddCopy(k.ctx, "seg-3", in("new"), copied))
		k.moved("a copy of no segment", k.AddCopy(k.ctx, "seg-9", in("new"), copied))
		k.moved("a copy in no vault", k.AddCopy(k.ctx, "seg-1", in("nobody"), copied))
	})
	k.ok(k.AddCopy(k.ctx, "seg-1", in("new"), copied))
	k.unchanged("recording a copy again", func() { k.ok(k.AddCopy(k.ctx, "seg-1", in("new"), copied)) })
	k.vaultIs("new", lifecycle.Joining, 1, 1)
	k.moved("activating what lacks one", k.ActivateVault(k.ctx, "new", leaf(lifecycle.ActionVaultActive)))

	// While it joins, a segment needs no copy in it; and then lacks one more.
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-3", copies(), leaf(lifecycle.ActionVerified)))
	k.vaultIs("new", lifecycle.Joining, 1, 2)
	k.ok(k.AddCopy(k.ctx, "seg-2", in("new"), copied))
	k.ok(k.AddCopy(k.ctx, "seg-3", in("new"), copied))
	k.ok(k.ActivateVault(k.ctx, "new", leaf(lifecycle.ActionVaultActive)))
	k.vaultIs("new", lifecycle.ActiveVault, 3, 0)
	g, err := k.Segment(k.ctx, "seg-2")
	k.ok(err)
	if len(g.Copies) != 3 || g.Copies[2].Vault != "new" || !g.Copies[2].RetainUntil.Equal(in("new").RetainUntil) {
		k.Errorf("copies of seg-2: %+v", g.Copies)
	}

	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-4", class, 1), leaf(lifecycle.ActionStaged)))
	k.unchanged("one object as two copies", func() {
		twice := in("new")
		twice.ObjectVersion = copies()[0].ObjectVersion
		if err := k.VerifySegment(k.ctx, k.lease, "seg-4", append(copies(), twice), leaf(lifecycle.ActionVerified)); err == nil {
			k.Error("one object was verified as two copies")
		}
	})
	k.unchanged("a segment without its copy in an active vault", func() {
		k.moved("verifying", k.VerifySegment(k.ctx, k.lease, "seg-4", copies(), leaf(lifecycle.ActionVerified)))
	})
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-4", append(copies(), in("new")), leaf(lifecycle.ActionVerified)))
}

// vaultRetires: it gets nothing more, what it has stays known, and the last one
// stays.
func vaultRetires(k *kit) {
	k.addVault("main")
	k.unchanged("retiring the last vault", func() {
		if err := k.RetireVault(k.ctx, "main", leaf(lifecycle.ActionVaultRetiring)); !errors.Is(err, lifecycle.ErrLastVault) {
			k.Errorf("retiring the last: %v", err)
		}
	})
	k.addVault("cold")
	r := row("r", expired)
	k.take(r)
	k.begin()
	k.archive("seg-1", r)
	k.ok(k.RetireVault(k.ctx, "cold", leaf(lifecycle.ActionVaultRetiring)))
	cold := k.vaultIs("cold", lifecycle.Retiring, 1, 0)
	if !cold.LockedUntil.Equal(copies()[0].RetainUntil) {
		k.Errorf("cold is locked until %s", cold.LockedUntil)
	}
	k.unchanged("what a retiring vault cannot do", func() {
		k.moved("retiring again", k.RetireVault(k.ctx, "cold", leaf(lifecycle.ActionVaultRetiring)))
		k.moved("coming back", k.ActivateVault(k.ctx, "cold", leaf(lifecycle.ActionVaultActive)))
		k.moved("retiring nobody", k.RetireVault(k.ctx, "nobody", leaf(lifecycle.ActionVaultRetiring)))
	})
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-2", r.ArchiveClass, 1), leaf(lifecycle.ActionStaged)))
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-2", copies()[1:], leaf(lifecycle.ActionVerified)))
	k.moved("a copy in a retiring vault", k.AddCopy(k.ctx, "seg-2", copies()[0], leaf(lifecycle.ActionVaultCopied)))
	k.vaultIs("cold", lifecycle.Retiring, 1, 1)

	// One that never came to count may go as well.
	k.addVault("new")
	k.ok(k.RetireVault(k.ctx, "new", leaf(lifecycle.ActionVaultRetiring)))
	k.vaultIs("new", lifecycle.Retiring, 0, 2)
}
