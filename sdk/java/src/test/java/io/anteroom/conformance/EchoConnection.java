package io.anteroom.conformance;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.concurrent.Executor;
import org.eclipse.jetty.io.AbstractConnection;
import org.eclipse.jetty.io.Connection;
import org.eclipse.jetty.io.EndPoint;
import org.eclipse.jetty.util.BufferUtil;
import org.eclipse.jetty.util.Callback;

/** An upgraded connection that says every byte back. */
final class EchoConnection extends AbstractConnection implements Connection.UpgradeTo, Callback {
  private ByteBuffer buffer = BufferUtil.allocateDirect(65536);

  EchoConnection(EndPoint endPoint, Executor executor) {
    super(endPoint, executor);
  }

  /** Bytes that came right behind the request. */
  @Override
  public void onUpgradeTo(ByteBuffer behind) {
    if (BufferUtil.hasContent(behind)) {
      buffer = BufferUtil.copy(behind);
    }
  }

  @Override
  public void onOpen() {
    super.onOpen();
    getEndPoint().setIdleTimeout(0);
    succeeded();
  }

  @Override
  public void onFillable() {
    try {
      int count = getEndPoint().fill(buffer);
      if (count < 0) {
        getEndPoint().close();
      } else {
        succeeded();
      }
    } catch (IOException why) {
      getEndPoint().close();
    }
  }

  /** What was there has been sent, or there was nothing. */
  @Override
  public void succeeded() {
    if (BufferUtil.hasContent(buffer)) {
      getEndPoint().write(this, buffer);
    } else {
      BufferUtil.clear(buffer);
      fillInterested();
    }
  }

  @Override
  public void failed(Throwable why) {
    getEndPoint().close();
  }
}
