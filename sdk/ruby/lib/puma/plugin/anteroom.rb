# frozen_string_literal: true

require "anteroom/puma"

Puma::Plugin.create do
  def config(dsl)
    dsl.anteroom unless dsl.get(:anteroom)
  end

  def start(launcher)
    Anteroom::Puma.drop_default_binds(launcher.options)
  end
end
