# The configuration of `make demo`. The demo program makes tokens, secrets and
# free ports anew for each run and hands them over in the environment.

http {
  address = nonsensitive(env("DEMO_ADDRESS"))
}

plugins {
  state_dir = nonsensitive(env("DEMO_STATE_DIR"))
}

# The receivers are on this machine. Without this line the daemon would refuse to
# send anything to a loopback address.
egress {
  allow = ["127.0.0.0/8"]
}

log {
  format = "json"
}

# A key decides which organization its holder acts for.
api_key "acme-shop" {
  organization = "acme"
  role         = "producer"
  token        = env("DEMO_ACME_TOKEN")
}

api_key "globex-shop" {
  organization = "globex"
  role         = "producer"
  token        = env("DEMO_GLOBEX_TOKEN")
}

# Where a real configuration waits a minute, the demo's audience should not.
defaults {
  retry {
    base = "500ms"
    cap  = "5s"
  }
  circuit_breaker {
    open_for     = "2s"
    max_open_for = "4s"
  }
}

# acme's orders go to "default", and so to both of these.
destination "acme" "billing" {
  type        = "webhook"
  default     = true
  description = "fails with 500 now and then"
  config {
    url    = nonsensitive(env("DEMO_BILLING_URL"))
    secret = env("DEMO_BILLING_SECRET")
  }
}

destination "acme" "warehouse" {
  type        = "webhook"
  default     = true
  description = "is sometimes too busy: 429 with Retry-After"
  config {
    url    = nonsensitive(env("DEMO_WAREHOUSE_URL"))
    secret = env("DEMO_WAREHOUSE_SECRET")
  }
}

destination "globex" "analytics" {
  type        = "webhook"
  description = "is down for a while"
  config {
    url     = nonsensitive(env("DEMO_ANALYTICS_URL"))
    secret  = env("DEMO_ANALYTICS_SECRET")
    timeout = "5s"
  }
}
