package schema

import (
	"strings"
	"unicode/utf8"
)

// nearest gives the candidate that name was probably meant to be, or "".
func nearest(name string, candidates []string) string {
	if len(name) > 64 {
		return ""
	}
	allowed := 1
	if len(name) > 3 {
		allowed = max(2, len(name)/3) // two, for swapped letters
	}
	best, bestDistance := "", allowed+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// clip shortens s for a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// firstSentence is what a message has room for of a description.
func firstSentence(description string) string {
	if i := strings.Index(description, ". "); i >= 0 {
		description = description[:i+1]
	}
	return clip(strings.TrimSpace(description), 200)
}
