package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secret finds a secret by its name in the environment, such as MINIO_SECRET_KEY,
// for one vault or, with an empty vault, for all. The first of these that is
// there is it:
//
//	NAME_VAULT, NAME_VAULT_FILE, the systemd credential name_vault
//	NAME, NAME_FILE, the systemd credential name
//
// VAULT is the vault's name in capitals, with _ for -. Flags, the configuration
// and the database have no secrets, and no error or log line has: what is
// returned with the secret says only where it was found.
func secret(name, vault string) (value, source string, err error) {
	names := []string{name}
	if vault != "" {
		names = []string{name + "_" + strings.ToUpper(strings.ReplaceAll(vault, "-", "_")), name}
	}
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v, n, nil
		}
		if path := os.Getenv(n + "_FILE"); path != "" {
			v, err := secretFile(path, 0o077)
			if err != nil {
				return "", "", fmt.Errorf("couldn't read the file that %s_FILE names: %w", n, err)
			}
			return v, n + "_FILE", nil
		}
		if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
			credential := strings.ToLower(n)
			// systemd gives a service with a User= its credentials by an ACL, whose
			// mask is what the group's bits then show: it is others that count.
			v, err := secretFile(filepath.Join(dir, credential), 0o007)
			if err == nil {
				return v, "systemd credential " + credential, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return "", "", fmt.Errorf("couldn't read the systemd credential %s: %w", credential, err)
			}
		}
	}
	return "", "", nil
}

// maxSecret is how many bytes a secret may have.
const maxSecret = 4096

// secretFile reads a secret from a file that none of those whose bits are in forbidden
// can read.
func secretFile(path string, forbidden fs.FileMode) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode(); !mode.IsRegular() {
		return "", fmt.Errorf("%s is not a file", path)
	} else if mode.Perm()&forbidden != 0 {
		return "", &hinted{fmt.Errorf("others than its owner can read %s (mode %04o)", path, mode.Perm()),
			"change the secret if anybody could have read it, then type: chmod 600 " + shellQuote(path)}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("%s is too long for a secret", path)
	}
	v := strings.TrimRight(string(b), "\r\n")
	if v == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return v, nil
}
