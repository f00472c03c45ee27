package memkeys_test

import (
	"testing"

	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
	"github.com/lotkeeper/lotkeeper/shred/memkeys"
)

func TestSuite(t *testing.T) {
	keystoretest.Exercise(t, func(testing.TB) keystoretest.Opener {
		s := memkeys.New()
		return func(testing.TB) shred.KeyStore { return s }
	})
}
