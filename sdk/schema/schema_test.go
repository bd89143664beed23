package schema_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// everything uses each type and each tag.
type everything struct {
	URL      string            `config:"url,required" doc:"Where to. More words." format:"url" example:"\"https://a.example\" | \"https://b.example\""`
	Token    string            `config:"token,secret" doc:"Who I am." min:"8"`
	Mode     string            `config:"mode" doc:"How." enum:"fast,safe" default:"safe"`
	Name     string            `config:"name" doc:"A name." pattern:"[a-z]+" max:"10"`
	Wait     time.Duration     `config:"wait" doc:"How long." default:"30s" min:"1s" max:"1h"`
	Limit    schema.Size       `config:"limit" doc:"How much." default:"10MiB" max:"1GiB"`
	Retries  int               `config:"retries" doc:"How often." default:"3" min:"0" max:"10"`
	Ratio    float64           `config:"ratio" doc:"A share." default:"0.5"`
	Small    uint8             `config:"small" doc:"A byte." default:"7"`
	Verbose  bool              `config:"verbose" doc:"Say more." default:"true"`
	Old      string            `config:"old" doc:"Gone." deprecated:"use name"`
	Tags     []string          `config:"tags" doc:"Labels." max:"3"`
	Ports    []int             `config:"ports" doc:"Numbers." default:"[80,443]"`
	Headers  map[string]string `config:"headers" doc:"Headers."`
	Networks []string          `config:"networks" doc:"Networks." format:"cidr"`
	Maybe    *bool             `config:"maybe" doc:"Three states."`
	Ignored  string            `config:"-"`
	TLS      tlsBlock          `config:"tls" doc:"TLS."`
	Auth     *authBlock        `config:"auth" doc:"Credentials."`
	Targets  []targetBlock     `config:"target" doc:"Targets." max:"2"`
	shared
}

type shared struct {
	Proxy string `config:"proxy" doc:"A proxy." format:"hostport"`
}

type tlsBlock struct {
	Verify bool   `config:"verify" doc:"Check certificates." default:"true"`
	CA     string `config:"ca" doc:"Authorities." format:"pem"`
}

type authBlock struct {
	User     string `config:"user,required" doc:"Name."`
	Password string `config:"password,required,secret" doc:"Password."`
}

type targetBlock struct {
	Host  string `config:"host,required" doc:"Host." format:"host"`
	Token string `config:"token,secret" doc:"Token."`
}

func of[C any](t testing.TB) *transportv1.ConfigSchema {
	t.Helper()
	s, err := schema.Of[C]()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStructBecomesSchema(t *testing.T) {
	t.Parallel()
	type small struct {
		URL   string        `config:"url,required" doc:"Where to." format:"url" example:"\"https://a.example\""`
		Wait  time.Duration `config:"wait" doc:"How long." default:"30s" min:"1s" max:"1h"`
		Ports []int         `config:"ports" doc:"Numbers." default:"[80]"`
		Auth  *authBlock    `config:"auth" doc:"Credentials." deprecated:"no longer"`
		Hosts []targetBlock `config:"target,required" doc:"Targets." max:"2"`
	}
	second, hour := 1.0, 3600.0
	want := &transportv1.ConfigSchema{
		Attributes: []*transportv1.Attribute{
			{Name: "url", Type: "string", Description: "Where to.", Required: true, Format: "url", Examples: []string{`"https://a.example"`}},
			{Name: "wait", Type: "string", Description: "How long.", DefaultJson: []byte(`"30s"`), Format: "duration", Min: &second, Max: &hour},
			{Name: "ports", Type: "list(number)", Description: "Numbers.", DefaultJson: []byte(`[80]`)},
		},
		Blocks: []*transportv1.Block{
			{Type: "auth", Description: "Credentials.", Max: 1, Deprecated: "no longer", Body: of[authBlock](t)},
			{Type: "target", Description: "Targets.", Min: 1, Max: 2, Body: of[targetBlock](t)},
		},
	}
	if diff := cmp.Diff(want, of[small](t), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if err := schema.Verify(of[everything](t)); err != nil {
		t.Error(err)
	}
}

type recursive struct {
	Self []recursive `config:"self" doc:"Itself."`
}

func TestMistakesInTagsAreNamed(t *testing.T) {
	t.Parallel()
	check := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	fail := func(_ *transportv1.ConfigSchema, err error) error { return err }
	check("want a struct", fail(schema.Of[int]()))
	check("no doc tag", fail(schema.Of[struct {
		A string `config:"a"`
	}]()))
	check(`name ""`, fail(schema.Of[struct{ A string }]()))
	check(`name "A"`, fail(schema.Of[struct {
		A string `config:"A" doc:"d"`
	}]()))
	check(`option "requird"`, fail(schema.Of[struct {
		A string `config:"a,requird" doc:"d"`
	}]()))
	check("is taken", fail(schema.Of[struct {
		A string `config:"a" doc:"d"`
		B string `config:"a" doc:"d"`
	}]()))
	check("cannot be an attribute", fail(schema.Of[struct {
		A chan int `config:"a" doc:"d"`
	}]()))
	check("required and has a default", fail(schema.Of[struct {
		A string `config:"a,required" doc:"d" default:"x"`
	}]()))
	check("secret and has a default", fail(schema.Of[struct {
		A string `config:"a,secret" doc:"d" default:"x"`
	}]()))
	check("its default is not valid", fail(schema.Of[struct {
		A string `config:"a" doc:"d" default:"x" enum:"y,z"`
	}]()))
	check("its default is not valid", fail(schema.Of[struct {
		A time.Duration `config:"a" doc:"d" default:"1 hour"`
	}]()))
	check("its default is not valid", fail(schema.Of[struct {
		A int `config:"a" doc:"d" default:"5" max:"4"`
	}]()))
	check("want JSON", fail(schema.Of[struct {
		A []string `config:"a" doc:"d" default:"x"`
	}]()))
	check("unknown format", fail(schema.Of[struct {
		A string `config:"a" doc:"d" format:"uri"`
	}]()))
	check("pattern", fail(schema.Of[struct {
		A string `config:"a" doc:"d" pattern:"("`
	}]()))
	check(`min:"soon"`, fail(schema.Of[struct {
		A time.Duration `config:"a" doc:"d" min:"soon"`
	}]()))
	check("greater than max", fail(schema.Of[struct {
		A int `config:"a" doc:"d" min:"2" max:"1"`
	}]()))
	check("contains itself", fail(schema.Of[recursive]()))
	check("want a slice", fail(schema.Of[struct {
		A authBlock `config:"a" doc:"d" max:"2"`
	}]()))
	check("mark its attributes", fail(schema.Of[struct {
		A authBlock `config:"a,secret" doc:"d"`
	}]()))
}

func TestForeignSchemasAreVerified(t *testing.T) {
	t.Parallel()
	deep := &transportv1.ConfigSchema{}
	for range 12 {
		deep = &transportv1.ConfigSchema{Blocks: []*transportv1.Block{{Type: "b", Description: "d", Max: 1, Body: deep}}}
	}
	attribute := func(a *transportv1.Attribute) *transportv1.ConfigSchema {
		return &transportv1.ConfigSchema{Attributes: []*transportv1.Attribute{a}}
	}
	for want, s := range map[string]*transportv1.ConfigSchema{
		"nested more than":     deep,
		"has no description":   attribute(&transportv1.Attribute{Name: "a", Type: "string"}),
		`attribute "A-b"`:      attribute(&transportv1.Attribute{Name: "A-b", Type: "string", Description: "d"}),
		`type "object({})"`:    attribute(&transportv1.Attribute{Name: "a", Type: "object({})", Description: "d"}),
		"default":              attribute(&transportv1.Attribute{Name: "a", Type: "number", Description: "d", DefaultJson: []byte(`"x"`)}),
		"pattern":              attribute(&transportv1.Attribute{Name: "a", Type: "string", Description: "d", Pattern: "("}),
		"declared twice":       {Attributes: []*transportv1.Attribute{{Name: "a", Type: "string", Description: "d"}}, Blocks: []*transportv1.Block{{Type: "a", Description: "d", Max: 1}}},
		"may be given 2 to 1 ": {Blocks: []*transportv1.Block{{Type: "a", Description: "d", Min: 2, Max: 1}}},
		"more than 500":        {Attributes: make([]*transportv1.Attribute, 501)},
	} {
		if err := schema.Verify(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
