# frozen_string_literal: true

require "anteroom/puma"

# It has no +config+: for each plugin that has, Puma 5 forgets an option of config/puma.rb.
Puma::Plugin.create do
  def start(launcher)
    Anteroom::Puma.prepare(launcher.options)
  end
end
