# frozen_string_literal: true

require_relative "lib/anteroom/version"

Gem::Specification.new do |spec|
  spec.name = "anteroom"
  spec.version = Anteroom::VERSION
  spec.summary = "Puma and Rack behind Anteroom, the sidecar that keeps your clients' connections"
  spec.description = "A host of the Anteroom sidecar: a Puma plugin, a small Rack server for rackup, and the client for writing another."
  spec.authors = ["The Anteroom authors"]
  spec.license = "Apache-2.0"
  spec.homepage = "https://github.com/anteroom-io/anteroom"
  spec.required_ruby_version = ">= 3.1"
  spec.files = Dir["lib/**/*.rb", "README.md", base: __dir__]
  spec.metadata = { "rubygems_mfa_required" => "true" }
end
