package store

// statements keeps the text of the cold statements, built with jet when the store opens.
type statements struct{}

func buildStatements() statements { return statements{} }
