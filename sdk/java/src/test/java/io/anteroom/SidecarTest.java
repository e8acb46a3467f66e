package io.anteroom;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.anteroom.Rig.Answer;
import io.anteroom.Rig.Browser;
import io.anteroom.conformance.App;
import io.anteroom.jetty.AnteroomConnector;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.IntConsumer;
import org.eclipse.jetty.io.EndPoint;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.ProxyConnectionFactory;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.handler.DefaultHandler;
import org.junit.After;
import org.junit.Test;

/** Hosts behind a real sidecar. */
public class SidecarTest {
  private final Rig rig = new Rig();

  @After
  public void end() throws Exception {
    rig.end();
  }

  private Process startApp() throws IOException {
    return rig.startHost(App.class);
  }

  /** 1,000 requests over 20 connections, 50 on each: how often each process answered, and under null how often none did. */
  private Map<String, Integer> thousand(IntConsumer before) throws IOException {
    List<Browser> browsers = new ArrayList<>();
    for (int i = 0; i < 20; i++) {
      browsers.add(rig.connect());
    }
    Map<String, Integer> pids = new HashMap<>();
    for (int round = 0; round < 50; round++) {
      before.accept(round);
      for (Browser browser : browsers) {
        browser.send("GET /pid", "");
      }
      for (int i = 0; i < browsers.size(); i++) {
        Answer answer = browsers.get(i).receive();
        pids.merge(answer.status() == 200 ? answer.body() : "none", 1, Integer::sum);
        if (answer.status() != 200) {
          browsers.set(i, rig.connect());
        }
      }
    }
    return pids;
  }

  @Test
  public void nothingIsLost() throws Exception {
    startApp();
    Map<String, Integer> pids = thousand(round -> {});
    assertEquals(pids.toString(), 1, pids.size());
    assertEquals(Integer.valueOf(1000), pids.values().iterator().next());
  }

  @Test
  public void aKilledProcessLosesAtMostWhatItHadRead() throws Exception {
    Process first = startApp();
    startApp();
    rig.await(() -> rig.ask("hosts").lines().filter(line -> line.contains("default")).count() == 2, "two hosts");
    Map<String, Integer> pids = thousand(round -> {
      if (round == 10) {
        first.destroyForcibly();
      }
    });
    int lost = pids.getOrDefault("none", 0);
    assertTrue(pids.toString(), lost <= Rig.CAPACITY);
    assertEquals(1000, pids.values().stream().mapToInt(Integer::intValue).sum());
  }

  @Test
  public void aRollingRestartLosesNothing() throws Exception {
    Process first = startApp();
    rig.await(() -> rig.connect().ask("GET /", "").status() == 200, "an answer");
    Process second = startApp();
    rig.await(() -> rig.ask("hosts").lines().filter(line -> line.contains("default")).count() == 2, "two hosts");
    Map<String, Integer> pids = thousand(round -> {
      if (round == 10) {
        first.destroy();
      }
    });
    assertEquals(pids.toString(), null, pids.get("none"));
    assertTrue(first.waitFor(20, TimeUnit.SECONDS));
    assertEquals(0, first.exitValue());
    assertTrue(second.isAlive());
  }

  @Test
  public void itLeavesWhenItHasFinished() throws Exception {
    Process app = startApp();
    Browser browser = rig.connect();
    assertEquals(200, browser.ask("GET /", "").status());
    browser.send("GET /sleep?ms=1000", "");
    rig.await(() -> rig.ask("conns").contains("leased"), "the request is lent");
    app.destroy();
    assertEquals("slept\n", browser.receive().body());
    assertTrue(app.waitFor(20, TimeUnit.SECONDS));
    assertEquals(0, app.exitValue());
    startApp();
    assertEquals("its connection has outlived the host", 200, browser.ask("GET /", "").status());
  }

  @Test
  public void aNewSidecarIsFound() throws Exception {
    startApp();
    assertEquals(200, rig.connect().ask("GET /", "").status());
    rig.killSidecar();
    rig.startSidecar();
    assertEquals(200, rig.connect().ask("GET /", "").status());
  }

  @Test
  public void aWebApplicationIsServedUnchanged() throws Exception {
    Path app = rig.folder().resolve("app");
    Files.createDirectories(app.resolve("WEB-INF"));
    Files.writeString(app.resolve("index.html"), "<p>static</p>");
    Files.writeString(app.resolve("big.txt"), "0123456789".repeat(300_000));
    Files.writeString(app.resolve("WEB-INF/web.xml"), """
        <web-app xmlns="http://xmlns.jcp.org/xml/ns/javaee" version="4.0">
          <servlet><servlet-name>s</servlet-name><servlet-class>io.anteroom.SessionServlet</servlet-class><async-supported>true</async-supported></servlet>
          <servlet-mapping><servlet-name>s</servlet-name><url-pattern>/s/*</url-pattern></servlet-mapping>
        </web-app>
        """);
    rig.startHost(io.anteroom.jetty.RunWar.class, "--context", "/app", app.toString());
    Browser browser = rig.connect();
    assertEquals("<p>static</p>", browser.ask("GET /app/index.html", "").body());
    assertEquals(3_000_000, browser.ask("GET /app/big.txt", "").body().length());
    Answer first = browser.ask("GET /app/s/count", "");
    assertEquals("1", first.body());
    String cookie = first.field("Set-Cookie").replaceFirst(";.*", "");
    assertEquals("2", browser.ask("GET /app/s/count", "", "Cookie: " + cookie).body());
    assertEquals("later", browser.ask("GET /app/s/async", "").body());
    assertEquals("form: a b", browser.ask("POST /app/s/form", "x=a+b", "Content-Type: application/x-www-form-urlencoded").body());
    assertEquals(404, browser.ask("GET /app/none", "").status());
    assertEquals("unread bodies are consumed", "1", browser.ask("POST /app/s/count", "x".repeat(200_000)).body());
    assertEquals("<p>static</p>", browser.ask("GET /app/index.html", "").body());
    assertEquals(500, browser.ask("GET /app/s/throw", "").status());
    assertEquals("Jetty ends the connection after a failure", 0, browser.receive().status());
  }

  /** Of three connections one may be kept. */
  @Test
  public void moreConnectionsThanAreKept() throws Exception {
    Server server = new Server();
    AnteroomConnector connector = new AnteroomConnector(server, new Options(rig.handoff(), "default", "small", 2, 1), new HttpConnectionFactory());
    server.addConnector(connector);
    server.setHandler(new DefaultHandler());
    server.start();
    try {
      List<Browser> browsers = List.of(rig.connect(), rig.connect(), rig.connect());
      for (int round = 0; round < 20; round++) {
        for (Browser browser : browsers) {
          assertEquals(404, browser.ask("GET /x", "").status());
        }
      }
      rig.await(() -> connector.getConnectedEndPoints().size() == 1, "the others are let go");
    } finally {
      server.stop();
    }
  }

  @Test
  public void outOfDescriptorsAllAreServed() throws Exception {
    Process app = startApp();
    List<Browser> browsers = new ArrayList<>();
    for (int i = 0; i < 20; i++) { // what Java loads for it, too
      browsers.add(rig.connect());
      assertEquals(200, browsers.get(i).ask("GET /", "").status());
    }
    rig.limitDescriptors(app, 4);
    for (int i = 20; i < 60; i++) {
      browsers.add(rig.connect());
      assertEquals("client " + i + rig.logs(), 200, browsers.get(i).ask("GET /", "").status());
    }
    for (Browser browser : browsers) {
      assertEquals(200, browser.ask("GET /", "").status());
    }
    assertEquals(rig.logs(), 2, rig.logs().split("no descriptor left for a connection; [1-9]", -1).length);
  }

  @Test
  public void proxyHeadersAreTheSidecarsToRead() {
    Server server = new Server();
    AnteroomConnector connector = new AnteroomConnector(server);
    connector.addConnectionFactory(new ProxyConnectionFactory());
    String why = assertThrows(IllegalStateException.class, connector::start).getMessage();
    assertTrue(why, why.contains("?proxy=NETWORK"));
  }

  @Test
  public void aConnectionThatJettyClosesBetweenRequestsIsServedAgain() throws Exception {
    Server server = new Server();
    Options options = new Options(rig.handoff(), "default", "in-process", 2, 10);
    AnteroomConnector connector = new AnteroomConnector(server, options, new HttpConnectionFactory());
    server.addConnector(connector);
    server.setHandler(new DefaultHandler());
    server.start();
    try {
      Browser browser = rig.connect();
      assertEquals(404, browser.ask("GET /x", "").status());
      rig.await(() -> rig.ask("conns").contains("idle"), "the connection is put");
      EndPoint before = connector.getConnectedEndPoints().iterator().next();
      assertEquals(404, browser.ask("GET /x", "").status());
      assertEquals("its objects are kept", List.of(before), List.copyOf(connector.getConnectedEndPoints()));
      rig.await(() -> rig.ask("conns").contains("idle"), "the connection is put again");
      before.close();
      assertEquals(404, browser.ask("GET /x", "").status());
      assertTrue(connector.isAttached());
    } finally {
      server.stop();
    }
    rig.await(() -> connector.getConnectedEndPoints().isEmpty(), "all connections are let go");
  }

  /** Each lease waits for the next one, so that the thread that reads the link is never back. */
  @Test
  public void theLinkIsReadWhileAllThreadsAreInTheApp() throws Exception {
    CountDownLatch all = new CountDownLatch(4);
    Client client = new Client(new Options(rig.handoff(), "default", "slow", 4, 10), lease -> {
      all.countDown();
      try {
        assertTrue(all.await(10, TimeUnit.SECONDS));
        lease.connection().read(ByteBuffer.allocate(1000));
        write(lease, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      } catch (IOException | InterruptedException why) {
        throw new IllegalStateException(why);
      }
      lease.put(1, Duration.ZERO);
    }).start();
    List<Browser> browsers = new ArrayList<>();
    for (int i = 0; i < 4; i++) {
      Browser browser = rig.connect();
      browser.send("GET /", "");
      browsers.add(browser);
      long left = 3 - i;
      rig.await(() -> all.getCount() == left, "the lease has come");
    }
    for (Browser browser : browsers) {
      assertEquals("ok", browser.receive().body());
    }
    client.close();
  }

  /** A lease that the app throws at is ended, and its thread serves the next. */
  @Test
  public void anAppThatThrows() throws Exception {
    Client client = new Client(new Options(rig.handoff(), "default", "throws", 1, 10), lease -> {
      throw new IllegalStateException("as it was told");
    }).start();
    for (int i = 0; i < 3; i++) {
      assertTrue(rig.connect().ask("GET /", "").status() != 200);
    }
    client.close();
  }

  /** The client alone, and what its leases can do that Jetty does not use. */
  @Test
  public void aHostWithoutJetty() throws Exception {
    Path file = Files.writeString(rig.folder().resolve("file"), "0123456789".repeat(200_000));
    BlockingQueue<Lease> leases = new LinkedBlockingQueue<>();
    Options options = new Options(rig.handoff(), "default", "bare", 2, 10);
    Client client = new Client(options, leases::add).start();
    Browser browser = rig.connect();

    Answer ordinary = serve(browser, leases, lease -> {
      assertTrue(lease.fresh());
      lease.connection().attach("mine");
      write(lease, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      assertTrue(lease.put(1, Duration.ofSeconds(5)));
    });
    assertEquals("ok", ordinary.body());

    Answer rest = serve(browser, leases, lease -> {
      assertEquals("it is the same object", "mine", lease.connection().attachment());
      assertTrue(client.canFinish());
      write(lease, "HTTP/1.1 200 OK\r\nContent-Length: 1999995\r\n\r\n");
      assertTrue(lease.finish(file, 5, 1_999_995, false, Duration.ofSeconds(20)));
      assertFalse("a second answer does no harm", lease.put(1, Duration.ZERO));
    });
    assertEquals("56789" + "0123456789".repeat(199_999), rest.body());

    Answer last = serve(browser, leases, lease -> {
      write(lease, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye");
      lease.close(CloseReason.DONE, 1);
    });
    assertEquals("bye", last.body());
    assertEquals("the connection has ended", 0, browser.receive().status());

    Browser other = rig.connect();
    other.send("GET /", "");
    Lease lease = leases.poll(10, TimeUnit.SECONDS);
    CompletableFuture<Void> left = client.drain();
    assertFalse(left.isDone());
    write(lease, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    lease.put(1, Duration.ZERO);
    left.get(10, TimeUnit.SECONDS);
    assertEquals(200, other.receive().status());
  }

  private interface Serving {
    void serve(Lease lease) throws IOException;
  }

  private static Answer serve(Browser browser, BlockingQueue<Lease> leases, Serving serving) throws Exception {
    browser.send("GET /", "");
    Lease lease = leases.poll(10, TimeUnit.SECONDS);
    assertTrue(lease.connection().awaitReadable(10_000));
    ByteBuffer request = ByteBuffer.allocate(1000);
    assertEquals(lease.requestLength(), lease.connection().read(request));
    assertEquals(lease.headLength(), lease.requestLength());
    assertTrue(new String(request.array(), StandardCharsets.US_ASCII).startsWith("GET / HTTP/1.1\r\n"));
    serving.serve(lease);
    return browser.receive();
  }

  private static void write(Lease lease, String text) throws IOException {
    lease.connection().write(ByteBuffer.wrap(text.getBytes(StandardCharsets.US_ASCII)));
  }
}
