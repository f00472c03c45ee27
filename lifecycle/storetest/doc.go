// Package storetest is the suite that every lifecycle.Store has to pass, and
// the store that fails on purpose for the tests of those who use one. Its
// vocabulary is that of package lifecycle.
//
// A store's test file is a few lines:
//
//	func TestStore(t *testing.T) {
//		storetest.Exercise(t, func(t *testing.T) storetest.Harness { … })
//	}
//
// The suite tests the contract in lifecycle/store.go and nothing beside it: it
// reads the database through the Store alone, makes its rows itself, and puts
// arbitrary bytes where ciphertext belongs, for a Store opens nothing.
package storetest
