api_key "globex" {
  organization = "globex"
  role         = "producer"
  token        = env("GLOBEX_TOKEN")
}

# Labels are per organization: this is another one than acme's.
destination "globex" "billing" {
  type = "webhook"
  config {
    url    = "https://api.globex.example/webhooks"
    secret = env("GLOBEX_SECRET")
  }
  rate_limit {
    events = local.small_rate
    per    = "1s"
  }
}
