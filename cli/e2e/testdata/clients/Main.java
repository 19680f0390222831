import java.net.URI;
import java.net.http.*;

public class Main {
    public static void main(String[] args) throws Exception {
        String key = System.getenv("ANTHROPIC_API_KEY");
        System.out.println("env=" + key);
        HttpClient client = HttpClient.newHttpClient();
        HttpResponse<String> r = client.send(ask("/v1/messages", key).POST(HttpRequest.BodyPublishers.ofString("{}")).build(),
                HttpResponse.BodyHandlers.ofString());
        System.out.println(r.body());
        r = client.send(ask("/echo", key).build(), HttpResponse.BodyHandlers.ofString());
        System.out.println("echo=" + r.body() + r.headers().map());
    }

    static HttpRequest.Builder ask(String path, String key) {
        return HttpRequest.newBuilder(URI.create("https://api.anthropic.com" + path)).header("x-api-key", key);
    }
}
