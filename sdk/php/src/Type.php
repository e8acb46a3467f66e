<?php

declare(strict_types=1);

namespace Anteroom;

/** What a frame means. Below 0x20 hosts speak, from there on the sidecar. handoff/PROTOCOL.md is the specification. */
final class Type
{
    public const HELLO = 0x01;
    public const PUT = 0x02;
    public const CLOSE = 0x03;
    public const DETACH = 0x04;
    public const NACK = 0x05;
    public const ADOPT = 0x06;
    public const LISTEN = 0x07;
    public const UNLISTEN = 0x08;
    public const FINISH = 0x09;
    public const CAPACITY = 0x0a;
    public const DROPPED = 0x0b;
    public const DRAIN = 0x0c; // DRAINING, said by the host
    public const PONG = 0x0d;

    public const WELCOME = 0x21;
    public const REFUSE = 0x22;
    public const LEASE = 0x23;
    public const FORGET = 0x24;
    public const ADOPTED = 0x25;
    public const LISTENING = 0x26;
    public const UNLISTENED = 0x27;
    public const DRAINING = 0x28; // DRAINING, said by the sidecar
    public const PING = 0x29;
    public const ERROR = 0x2a;
    public const DENIED = 0x2b;
}
