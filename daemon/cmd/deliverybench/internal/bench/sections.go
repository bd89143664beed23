package bench

import "context"

// Names of sections.
const (
	SectionThroughput = "throughput"
	SectionLatency    = "latency"
	SectionSubmit     = "submit"
	SectionCeiling    = "ceiling"
	SectionHop        = "hop"
	SectionPlugins    = "plugins"
	SectionSnapshot   = "snapshot"
	SectionClaim      = "claim"
	SectionSoak       = "soak"
	SectionReload     = "reload"
	SectionSick       = "sick"
	SectionArtifact   = "artifact"
)

// SectionNames returns the names of all sections. The first four are a whole run; the others run only when they are
// named.
func SectionNames() []string {
	return append(defaultSections(), SectionCeiling, SectionHop, SectionSnapshot, SectionClaim, SectionSoak, SectionReload, SectionArtifact, SectionSick)
}

func defaultSections() []string {
	return []string{SectionThroughput, SectionLatency, SectionSubmit, SectionPlugins}
}

func (h *harness) section(ctx context.Context, name string) error {
	switch name {
	case SectionThroughput:
		return h.throughput(ctx)
	case SectionLatency:
		return h.latency(ctx)
	case SectionSubmit:
		return h.submit(ctx)
	case SectionCeiling:
		return h.ceiling(ctx)
	case SectionHop:
		return h.hop(ctx)
	case SectionPlugins:
		return h.plugins(ctx)
	case SectionSnapshot:
		return h.snapshot(ctx)
	case SectionClaim:
		return h.claim(ctx)
	case SectionSoak:
		return h.soak(ctx)
	case SectionReload:
		return h.reload(ctx)
	case SectionSick:
		return h.sick(ctx)
	case SectionArtifact:
		return h.artifact(ctx)
	}
	return nil // validate knows the names
}
