package api

import "slices"

// permission is what an operation asks of its caller's role.
type permission string

const (
	submitDeliveries    permission = "submit deliveries"
	readDeliveries      permission = "read deliveries"
	operateDeliveries   permission = "cancel or replay deliveries"
	readDestinations    permission = "read destinations"
	operateDestinations permission = "pause, resume, enable, disable or test destinations"
	readAlerts          permission = "read alerts"
	operateAlerts       permission = "acknowledge or resolve alerts"
	readLanes           permission = "read lanes"
	readMetrics         permission = "read metrics"
	readPlugins         permission = "read plugins"
	reloadConfig        permission = "reload the configuration"
	manageDestinations  permission = "create, change or delete destinations"
	readSecrets         permission = "list signing secrets"
	manageSecrets       permission = "create, rotate, change or revoke signing secrets"
	readAudit           permission = "read the audit log"
	rotateKeys          permission = "rotate the encryption key"
)

// permissions says which roles may do what. It is a function and not a variable
// so that nothing can change it.
func permissions(p permission) []Role {
	switch p {
	case submitDeliveries:
		return []Role{Admin, Producer}
	case readDeliveries, readDestinations:
		return []Role{Admin, Operator, Producer, Viewer}
	case operateDeliveries, operateDestinations, operateAlerts:
		return []Role{Admin, Operator}
	case readAlerts, readLanes, readMetrics, readPlugins, readSecrets:
		return []Role{Admin, Operator, Viewer}
	case reloadConfig, manageDestinations, manageSecrets, readAudit, rotateKeys:
		return []Role{Admin}
	}
	return nil
}

// fleetWide reports whether a permission concerns every organization at once, so
// that only a key of all organizations has it.
func fleetWide(p permission) bool {
	return p == readMetrics || p == readPlugins || p == reloadConfig || p == rotateKeys
}

// allowed reports whether a role has a permission.
func allowed(role Role, p permission) bool { return slices.Contains(permissions(p), role) }
