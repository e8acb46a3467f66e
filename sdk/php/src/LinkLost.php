<?php

declare(strict_types=1);

namespace Anteroom;

/** The link to the sidecar has ended. What was leased may be finished, but not put. */
class LinkLost extends AnteroomException
{
}
