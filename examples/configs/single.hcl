# One machine: daemon and PostgreSQL side by side, the API on loopback behind a
# reverse proxy. Install it as /etc/deliveryd/deliveryd.hcl.

database {
  # On the same machine a socket needs no password: peer authentication.
  url             = env("DATABASE_URL", "postgres:///deliveryd?host=/run/postgresql")
  max_connections = 12
}

plugins {
  directory = nonsensitive(env("DELIVERYD_PLUGINS", "/usr/local/lib/deliveryd/plugins"))
}

encryption {
  key = env("DELIVERYD_KEY") # openssl rand -base64 32
}

log {
  format = "json"
}

# For people and for Prometheus: every organization, and `deliveryd reload`.
api_key "ops" {
  organization = "*"
  role         = "admin"
  token        = env("OPS_TOKEN") # openssl rand -hex 32
}

api_key "shop" {
  organization = "acme"
  role         = "producer"
  token        = env("SHOP_TOKEN")
}

destination "acme" "billing" {
  type    = "webhook"
  default = true
  config {
    url    = "https://billing.example/hooks"
    secret = env("BILLING_SECRET")
  }
}

# A receiver in the private network: it has to be allowed.
egress {
  allow = ["10.20.0.0/16"]
}

destination "acme" "warehouse" {
  type = "webhook"
  config {
    url    = "https://10.20.4.7/events"
    secret = env("WAREHOUSE_SECRET")
  }

  # A small machine: never more than 4 requests at once, 50 a second.
  concurrency = 4
  timeout     = "10s"
  rate_limit {
    events = 50
    per    = "1s"
  }
}
