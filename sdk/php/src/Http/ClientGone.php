<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** The client has hung up, or does not take what is sent to it. */
final class ClientGone extends \RuntimeException
{
}
