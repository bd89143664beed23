api_key "acme-shop" {
  organization = "acme"
  role         = "producer"
  token        = env("ACME_TOKEN")
}

# May look, and resume what was disabled; may not submit.
api_key "acme-support" {
  organization = "acme"
  role         = "operator"
  token        = env("ACME_SUPPORT_TOKEN")
}

destination "acme" "billing" {
  type    = "webhook"
  default = true
  config {
    url    = "https://billing.acme.example/hooks"
    secret = env("ACME_BILLING_SECRET")
  }
}

# A second default: deliveries to "default" go to both.
destination "acme" "audit" {
  type    = "webhook"
  default = true
  expiry  = "14d"
  config {
    url    = "https://audit.acme.example/events"
    secret = env("ACME_AUDIT_SECRET")
  }
}
