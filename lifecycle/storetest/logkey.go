package storetest

import (
	"encoding/json"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// A log's key for tests, which keeps nothing secret.
const (
	logSecret = "PRIVATE+KEY+lotkeeper-test+8eadf894+AUBgQcWxMnZrjtK2viN2Ng8CU2K9sKhSTJytJSdb7wbq"
	// LogKey is its public half.
	LogKey = "lotkeeper-test+8eadf894+AWoMN+0ZqwzWAFpWrKv05E1uT/ULeDCT1hfsi0WTE5Cf"
)

// LogSigner signs the logs of tests.
func LogSigner() note.Signer {
	s, err := note.NewSigner(logSecret)
	if err != nil {
		panic(err)
	}
	return s
}

// First is the first leaf of a database whose log LogSigner signs.
func First(at time.Time) lifecycle.Leaf {
	body, err := json.Marshal(map[string]string{"log_key": LogKey})
	if err != nil {
		panic(err)
	}
	return lifecycle.Leaf{At: at, Actor: "test", Action: lifecycle.ActionInit, Body: body}
}
