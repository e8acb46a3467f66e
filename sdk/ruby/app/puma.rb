# frozen_string_literal: true

# The conformance app behind Puma: ANTEROOM_CAPACITY threads in each of PUMA_WORKERS processes (0, the default: one process).

plugin :anteroom

environment "production"
rackup File.join(__dir__, "config.ru")
threads_count = Integer(ENV["ANTEROOM_CAPACITY"] || 5)
threads threads_count, threads_count
workers Integer(ENV["PUMA_WORKERS"] || 0)
raise_exception_on_sigterm false
