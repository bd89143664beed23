# One daemon of several behind PgBouncer in transaction mode. All of them have this
# same file; destinations of each lane are shared out among the daemons that live.

database {
  # PgBouncer, not PostgreSQL itself. What a session would set (jit, timeouts) is set
  # for the role: see docs/operations.md.
  url             = env("DATABASE_URL")
  max_connections = 20

  # The release job runs `deliveryd migrate up` once, before the daemons change.
  migrate = false
}

plugins {
  directory = nonsensitive(env("DELIVERYD_PLUGINS", "/usr/local/lib/deliveryd/plugins"))
}

# Exactly the binary that was tested.
plugin "webhook" {
  sha256     = nonsensitive(env("WEBHOOK_SHA256"))
  memory_max = "512MiB"
}

# The same on every daemon: each must open what another sealed.
encryption {
  key = env("DELIVERYD_KEY")
}

http {
  address = nonsensitive(env("DELIVERYD_LISTEN", "0.0.0.0:8443"))
  tls {
    cert_file = nonsensitive(env("DELIVERYD_CERT", "/etc/deliveryd/tls.crt"))
    key_file  = nonsensitive(env("DELIVERYD_CERT_KEY", "/etc/deliveryd/tls.key"))
  }
}

log {
  format = "json"
}

queue {
  wake          = "poll" # no LISTEN through a pooler
  poll_interval = "250ms"
  lease         = "10s" # a killed daemon's lanes rest a little less than by default
  renew         = "3s"
  drain_timeout = "60s" # raise TimeoutStopSec of the unit with it
}

api_key "ops" {
  organization = "*"
  role         = "admin"
  token        = env("OPS_TOKEN")
}

api_key "metrics" {
  organization = "*"
  role         = "viewer"
  token        = env("METRICS_TOKEN")
}

api_key "acme" {
  organization = "acme"
  role         = "producer"
  token        = env("ACME_TOKEN")
}

destination "acme" "billing" {
  type    = "webhook"
  default = true
  config {
    url    = "https://billing.example/hooks"
    secret = env("BILLING_SECRET")
  }
  retry {
    max = 12
    cap = "1h"
  }
}
