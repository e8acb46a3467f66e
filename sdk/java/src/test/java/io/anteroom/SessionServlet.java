package io.anteroom;

import java.io.IOException;
import javax.servlet.AsyncContext;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;

/** What web applications do, for a test: sessions, forms, asynchronous answers, failures. */
public class SessionServlet extends HttpServlet {
  private static final long serialVersionUID = 1;

  @Override
  protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
    switch (request.getPathInfo()) {
      case "/count" -> response.getWriter().print(count(request.getSession()));
      case "/form" -> response.getWriter().print("form: " + request.getParameter("x"));
      case "/async" -> later(request.startAsync());
      default -> throw new IllegalStateException("as it was told");
    }
  }

  private static int count(HttpSession session) {
    int count = session.getAttribute("count") instanceof Integer before ? before + 1 : 1;
    session.setAttribute("count", count);
    return count;
  }

  private static void later(AsyncContext context) {
    new Thread(() -> {
      try {
        Thread.sleep(50);
        context.getResponse().getWriter().print("later");
        context.complete();
      } catch (IOException | InterruptedException why) {
        throw new IllegalStateException(why);
      }
    }).start();
  }
}
