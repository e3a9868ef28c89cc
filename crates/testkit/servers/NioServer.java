// java.nio with one selector, as Netty and its kind do it: java NioServer.java --port N [--host H]

import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class NioServer {
    private static final Pattern NUMBER = Pattern.compile("^GET \\S*[?&]n=(\\d+)");
    private static final String GENERATION = System.getenv().getOrDefault("STAYPUT_GENERATION", "");

    public static void main(String[] args) throws IOException {
        String host = "127.0.0.1";
        int port = 0;
        for (int i = 0; i + 1 < args.length; i += 2) {
            if (args[i].equals("--port")) port = Integer.parseInt(args[i + 1]);
            if (args[i].equals("--host")) host = args[i + 1];
        }
        Selector selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open();
        server.bind(new InetSocketAddress(host, port));
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) accept(selector, server);
                else read(key);
            }
            selector.selectedKeys().clear();
        }
    }

    private static void accept(Selector selector, ServerSocketChannel server) throws IOException {
        SocketChannel client = server.accept();
        if (client == null) return;
        client.configureBlocking(false);
        client.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(8192));
    }

    private static void read(SelectionKey key) {
        SocketChannel client = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        try {
            int count = client.read(buffer);
            String request = new String(buffer.array(), 0, buffer.position(), StandardCharsets.ISO_8859_1);
            if (request.endsWith("\r\n\r\n")) {
                client.write(answer(request));
                client.close();
            } else if (count < 0 || !buffer.hasRemaining()) {
                client.close();
            }
        } catch (IOException gone) {
            key.cancel();
        }
    }

    private static ByteBuffer answer(String request) {
        Matcher number = NUMBER.matcher(request);
        String body = String.format(
            "{\"pid\": %d, \"generation\": \"%s\", \"n\": \"%s\"}",
            ProcessHandle.current().pid(), GENERATION, number.find() ? number.group(1) : "");
        String head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + body.length() + "\r\nConnection: close\r\n\r\n";
        return ByteBuffer.wrap((head + body).getBytes(StandardCharsets.ISO_8859_1));
    }
}
