/** Jetty behind an Anteroom sidecar. */
package io.anteroom.jetty;
