package destination

import "time"

// Destination is a snapshot of a destination: never changed, shared by pointer.
type Destination struct {
	ID             int32
	OrganizationID string
	Label          string
	Type           string
	Description    string
	Default        bool
	Disabled       bool
	DisabledReason string
	DisabledAt     *time.Time
	Paused         bool
	Settings       Settings
	// Generation counts up with every change of what the plugin gets.
	Generation int64
	ManagedBy  string
	Source     string
	CountUsage int32
	LastUsedAt *time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
}
