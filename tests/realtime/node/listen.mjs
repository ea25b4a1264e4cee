// The client of other systems: says all it hears as lines of JSON, and emits what it is told.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const say = (what, ...data) => console.log(JSON.stringify({ what, data }));
const [url, options] = process.argv.slice(2);
const socket = io(url, JSON.parse(options));

socket.onAny((event, ...data) => say(event, ...data));
socket.io.on("open", () => {
  const { engine } = socket.io;
  say("on.open", engine.transport.name);
  engine.on("upgrade", (transport) => say("on.upgrade", transport.name));
});
socket.on("connect_error", (wrong) => say("on.connect_error", wrong.message, wrong.data ?? null));
socket.on("disconnect", (reason) => say("on.disconnect", reason));
createInterface({ input: process.stdin }).on("line", (line) => {
  const { event, data, acknowledged } = JSON.parse(line);
  if (acknowledged) socket.emit(event, ...data, (...reply) => say("on.reply", ...reply));
  else socket.emit(event, ...data);
});
