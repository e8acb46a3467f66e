/** A host of an Anteroom sidecar: the handoff protocol, and the connections that it lends. */
package io.anteroom;
