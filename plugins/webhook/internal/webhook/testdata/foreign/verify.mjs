// An HTTP receiver that verifies each request with libraries that others wrote,
// and answers with what each of them said. The secret is the first argument;
// the port goes to standard output; the end of standard input ends the process.
import { createServer } from "node:http";
import { Webhook as Standard } from "standardwebhooks";
import { Webhook as Svix } from "svix";

const secret = process.argv[2];
const verifiers = { standardwebhooks: new Standard(secret), svix: new Svix(secret) };

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks).toString("utf8");
    const verdict = {};
    for (const [name, verifier] of Object.entries(verifiers)) {
      try {
        verifier.verify(body, request.headers);
        verdict[name] = "ok";
      } catch (error) {
        verdict[name] = String(error);
      }
    }
    const ok = Object.values(verdict).every((v) => v === "ok");
    response.writeHead(ok ? 200 : 400, { "content-type": "application/json" });
    response.end(JSON.stringify(verdict));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
