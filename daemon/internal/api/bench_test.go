package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// orderBody is a submission of about 1 KB.
func orderBody() string {
	var lines strings.Builder
	for i := range 8 {
		fmt.Fprintf(&lines, `{"sku":"SKU-%05d","name":"A thing of which there are many","quantity":%d,"price":"12.50"},`, i*7919, i+1)
	}
	return `{"destinations":["billing"],"payload":{"type":"order.created","data":{"order":"ord_0198c5f2","customer":"cus_42","lines":[` +
		strings.TrimSuffix(lines.String(), ",") + `]}},"idempotency_key":"order-created-ord_0198c5f2"}`
}

type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) WriteHeader(int)             {}

// BenchmarkSubmit is what the API itself costs for a submission of 1 KB, without
// the network and without what is behind it; huma's own way of reading a body
// beside it says why it is not used here.
func BenchmarkSubmit(b *testing.B) {
	body := orderBody()
	run := func(b *testing.B, handler http.Handler) {
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			req := httptest.NewRequest("POST", "/v1/deliveries", strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+acmeProducer)
			w := &nullWriter{http.Header{}}
			handler.ServeHTTP(w, req)
		}
	}
	b.Run("request alone", func(b *testing.B) { run(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) })
	b.Run("api", func(b *testing.B) {
		f := &forgetful{}
		a := newTestAPI(b, &fake{})
		a.Serve(&Services{Deliveries: f})
		run(b, a)
	})
	b.Run("huma's body", func(b *testing.B) {
		mux := http.NewServeMux()
		api := humago.New(mux, humaConfig("test"))
		huma.Register(api, huma.Operation{Method: "POST", Path: "/v1/deliveries", DefaultStatus: 202},
			func(context.Context, *struct{ Body Submission }) (*submitOutput, error) {
				return &submitOutput{Location: "/v1/deliveries/dlv_1", Body: accepted()}, nil
			})
		run(b, mux)
	})
}

func accepted() *Accepted {
	return &Accepted{ID: "dlv_0198c5f26f3a7c3c9d5a2b1e4f607182", Status: "accepted", Destinations: []AcceptedDestination{{7, "billing", "dlv_0198c5f26f3a7c3c9d5a2b1e4f607182-7"}}}
}

// forgetful accepts everything at no cost.
type forgetful struct{ Deliveries }

func (*forgetful) Submit(context.Context, Caller, *Submission) (*Accepted, error) {
	return accepted(), nil
}
