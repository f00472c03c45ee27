package archive

import (
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// NewIdentity makes the age identity of one segment. kind is "hybrid"
// (ML-KEM-768 with X25519, safe against a recorder who waits for a quantum
// computer; age 1.3 and later) or "x25519" (opened by any age). The secret is
// the identity as age's own files write it: keep it as a key, and nowhere else.
func NewIdentity(kind string) (secret string, recipient age.Recipient, err error) {
	switch kind {
	case "hybrid":
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return "", nil, fmt.Errorf("couldn't make a hybrid identity: %w", err)
		}
		return id.String(), id.Recipient(), nil
	case "x25519":
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return "", nil, fmt.Errorf("couldn't make an X25519 identity: %w", err)
		}
		return id.String(), id.Recipient(), nil
	}
	return "", nil, fmt.Errorf("unknown kind of identity %q: hybrid or x25519", kind)
}

// errIdentity is all that is said of a secret that does not parse: age's own
// errors name characters of it.
var errIdentity = errors.New("not an age identity")

// ParseIdentity parses a secret made by [NewIdentity], of either kind, and
// returns the identity with its recipient. The recipient is also a
// [fmt.Stringer]: the public key, as in [Manifest.Recipient].
func ParseIdentity(secret string) (age.Identity, age.Recipient, error) {
	if strings.HasPrefix(secret, "AGE-SECRET-KEY-PQ-1") {
		id, err := age.ParseHybridIdentity(secret)
		if err != nil {
			return nil, nil, errIdentity
		}
		return id, id.Recipient(), nil
	}
	id, err := age.ParseX25519Identity(secret)
	if err != nil {
		return nil, nil, errIdentity
	}
	return id, id.Recipient(), nil
}
