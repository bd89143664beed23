// Package plugintest is the conformance kit for transport plugins: it starts a
// built binary, in any language, and checks what the daemon relies on.
//
// It must never import the daemon: authors of plugins use it in their own tests.
package plugintest
