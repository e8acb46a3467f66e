# frozen_string_literal: true

module Anteroom
  # How long to wait before the next attempt: delays that double from +first+ to +most+ seconds. Each is shortened by up to a half, at
  # random, so that hosts which lost their sidecar together do not come back together.
  class Backoff
    def initialize(first: 0.05, most: 2.0)
      @first = @next = first
      @most = most
    end

    def delay
      now, @next = @next, [2 * @next, @most].min
      now * rand(0.5..1.0)
    end

    def reset
      @next = @first
    end
  end
end
