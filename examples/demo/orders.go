package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// order is the data of an event, as a shop might send it.
type order struct {
	ID       string    `json:"order_id"`
	Customer customer  `json:"customer"`
	Placed   time.Time `json:"placed_at"`
	Currency string    `json:"currency"`
	Lines    []line    `json:"lines"`
	Total    int       `json:"total_cents"`
	Note     string    `json:"note"`

	organization string
}

type customer struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
}

type line struct {
	SKU      string `json:"sku"`
	Title    string `json:"title"`
	Quantity int    `json:"quantity"`
	Cents    int    `json:"unit_cents"`
}

// globexEvery: every so many orders are globex's, the rest acme's.
const globexEvery = 3

// makeOrders makes n orders. They differ, but are the same in every run.
func makeOrders(n int) []*order {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"Zoë Ångström", "José Núñez", "李小龙", "Mary O'Neill", "Søren \"Bo\" Ørsted"}
	titles := []string{"Espresso cups, set of six", "Bicycle bell, brass", "Notebook, squared, A5", "Rain jacket, dark green", "USB-C cable, 2 m"}
	orders := make([]*order, n)
	for i := range orders {
		o := &order{
			ID: fmt.Sprintf("ord-%06d", i), organization: "acme", Currency: "EUR",
			Placed:   time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC),
			Customer: customer{fmt.Sprintf("cus-%04d", random.IntN(500)), names[random.IntN(len(names))], "12 Example Street, 1000 Brussels"},
			Note:     "Please leave it with the neighbours <if nobody is in> & ring twice.",
		}
		if i%globexEvery == globexEvery-1 {
			o.organization = "globex"
		}
		for range 5 + random.IntN(4) {
			l := line{fmt.Sprintf("SKU-%05d", random.IntN(100_000)), titles[random.IntN(len(titles))], 1 + random.IntN(4), 100 + random.IntN(9900)}
			o.Lines = append(o.Lines, l)
			o.Total += l.Quantity * l.Cents
		}
		orders[i] = o
	}
	return orders
}

// destinationsOf are the labels that an organization's orders go to.
func destinationsOf(organization string) []string {
	if organization == "globex" {
		return []string{"analytics"}
	}
	return []string{"billing", "warehouse"}
}

// expected is what each destination must receive: the data of each order in one
// agreed form, by order id.
type expected map[string]map[string]string

func expectations(orders []*order) expected {
	all := expected{}
	for _, o := range orders {
		text, err := json.Marshal(o)
		if err != nil {
			panic(err) // an order is nothing but strings and numbers
		}
		for _, label := range destinationsOf(o.organization) {
			if all[label] == nil {
				all[label] = map[string]string{}
			}
			all[label][o.ID] = canonical(text)
		}
	}
	return all
}

func (e expected) total() int {
	n := 0
	for _, orders := range e {
		n += len(orders)
	}
	return n
}

// canonical writes JSON in one agreed form: keys in order, no spaces.
func canonical(text []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return "not JSON: " + err.Error()
	}
	again, err := json.Marshal(value)
	if err != nil {
		return "not JSON: " + err.Error()
	}
	return string(again)
}
