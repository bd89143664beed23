package signature_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// A receiver: read the raw body, verify it, and only then parse it.
func ExampleVerifier() {
	verifier, err := signature.NewVerifier([]string{
		"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", // the new one, while it is rotated in
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	})
	if err != nil {
		panic(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "too long", http.StatusRequestEntityTooLarge)
			return
		}
		if err := verifier.Verify(r.Header, body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "took %s", body)
	}

	// What a sender does.
	key, err := signature.ParseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		panic(err)
	}
	post := func(body, signed string) {
		now := time.Now()
		value, err := signature.Sign("msg_1", now, []byte(signed), key)
		if err != nil {
			panic(err)
		}
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		request.Header.Set(signature.HeaderID, "msg_1")
		request.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		request.Header.Set(signature.HeaderSignature, value)
		answer := httptest.NewRecorder()
		handler(answer, request)
		fmt.Println(answer.Code, strings.TrimSpace(answer.Body.String()))
	}
	post(`{"paid":true}`, `{"paid":true}`)
	post(`{"paid":false}`, `{"paid":true}`)
	// Output:
	// 200 took {"paid":true}
	// 400 no webhook signature matches
}
