// Vite's development server with a middleware that answers as the other servers do: vite --config vite.config.mjs --port N
const answers = {
  name: "answers",
  configureServer(server) {
    server.middlewares.use((request, response) => {
      const url = new URL(request.url, "http://server");
      response.setHeader("Content-Type", "application/json");
      response.end(
        JSON.stringify({
          pid: process.pid,
          generation: process.env.STAYPUT_GENERATION || "",
          n: url.searchParams.get("n") || "",
        }),
      );
    });
  },
};

export default { plugins: [answers], cacheDir: ".vite", clearScreen: false };
