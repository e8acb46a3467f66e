cat >"$DIR/Hello.java" <<'END'
import io.anteroom.jetty.AnteroomConnector;
import java.io.IOException;
import javax.servlet.http.*;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.*;

public class Hello extends HttpServlet {
  @Override
  protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
    response.getWriter().println("hello");
  }

  public static void main(String[] arguments) throws Exception {
    Server server = new Server();
    server.addConnector(new AnteroomConnector(server));
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new Hello()), "/*");
    server.setHandler(context);
    server.start();
    server.join();
  }
}
END
CLASSPATH=$("$ROOT/sdk/java/build")
export CLASSPATH
exec java "$DIR/Hello.java"
