package schema_test

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

// One declaration drives validation, defaults and documentation.
func Example() {
	type config struct {
		Endpoint string        `config:"endpoint,required" doc:"Where to send." format:"url"`
		Token    string        `config:"token,secret" doc:"Who we are."`
		Timeout  time.Duration `config:"timeout" doc:"How long to wait." default:"30s" max:"5m"`
	}
	s, err := schema.Of[config]()
	if err != nil {
		panic(err)
	}

	_, findings := schema.Check(s, []byte(`{"endpont": "https://a.example", "timeout": "1h"}`))
	fmt.Println(findings)

	filled, _ := schema.Check(s, []byte(`{"endpoint": "https://a.example", "token": "hush"}`))
	var c config
	schema.Decode(filled, &c)
	redacted, _ := schema.Redact(s, filled)
	fmt.Println(c.Timeout, schema.SecretPaths(s), string(redacted))
	// Output:
	// endpont: unsupported attribute or block "endpont" (did you mean "endpoint"?)
	// endpoint: missing required attribute "endpoint" (Where to send.)
	// timeout: 1h0m0s is more than the maximum of 5m0s
	// 30s [token] {"endpoint":"https://a.example","timeout":"30s","token":"[redacted]"}
}
