// Package status shows over HTTP how a sidecar is doing: Prometheus metrics, a page for people, and two checks for orchestrators. It only reads.
package status
