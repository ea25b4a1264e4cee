// A live line to the engine: WebSocket, Server-Sent Events where that is not let through, and
// asking every few seconds where neither is. For any page of this origin:
//
//   const line = live({
//     rooms: ["drops", "me"],            // joined, and joined again after every break
//     auth: { userId: "guest-1" },       // or { token: "<jwt>" }, or null: then "me" is not joined
//     onEvent(event, data, seq) {},      // what is told in the rooms; seq: null if polled
//     onState(state, way) {},            // "live" (the first room's snapshot is there) | "retrying" |
//                                        // "polling", when it changes; live by "socket" or "stream"
//     poll: async () => data | null,     // optional: what a snapshot would hold, by plain HTTP
//   });
//   line.close();
//
// A snapshot replaces what was known of its room; it comes after every break, so nothing that was
// missed is missing. What a poll returns is handed on as a "snapshot" too; null: no answer.
// Changes may come twice or late: newer is what has the greater (epoch, version).
const SOCKET = "/ws", STREAM = "/events";
const EVENTS = [
  "connected", "snapshot", "stock_update", "new_drop", "drop_update", "new_purchase",
  "reservation_update", "reservation_expired", "units_update", "slot_update", "ledger_update", "error",
];
const PATIENCE_MS = 6_000; // from a connection's first byte to its first snapshot
const QUIET_MS = 12_000, ANSWER_MS = 6_000; // nobody spoke for so long: is anybody there?
const WAIT_MS = [500, 3_000], WAIT_MAX_MS = 15_000; // before the next try; spread, lest all come at once
const POLL_MS = [4_000, 6_000], FIRST_MS = 1_500;

const between = ([least, most]) => least + Math.random() * (most - least);

export function live({ rooms, auth = null, onEvent, onState, poll = null }) {
  let state = "", way = null; // the way that is tried or in use: { close() }
  let kind = "socket"; // or "stream": what `way` is
  let failures = 0; // since it was last live
  let isClosed = false;
  let nextTry = 0, nextPoll = 0, patience = 0;

  function become(next) {
    if (state === next || isClosed) return;
    state = next;
    onState?.(next, next === "live" ? kind : undefined);
  }

  function hear(event, data, seq) {
    if (isClosed) return;
    if (event === "snapshot" && data.room === rooms[0]) {
      failures = 0;
      clearTimeout(patience);
      clearTimeout(nextPoll);
      nextPoll = 0;
      onEvent(event, data, seq);
      return become("live");
    }
    onEvent(event, data, seq);
  }

  function connect() {
    clearTimeout(nextTry);
    if (isClosed) return;
    drop();
    // Two sockets, then a stream: who restarts a server should not find everybody on streams.
    const open = failures % 3 === 2 && "EventSource" in globalThis ? stream : socket;
    kind = open.name;
    const mine = { close() {} };
    const lost = () => { if (way === mine) fail(); };
    way = mine;
    patience = setTimeout(lost, PATIENCE_MS);
    try {
      mine.close = open({
        rooms, auth, failures,
        hear: (...heard) => { if (way === mine) hear(...heard); },
        lost,
      });
    } catch { // a policy that forbids sockets throws here, in some browsers
      lost();
    }
  }

  function drop() {
    clearTimeout(patience);
    way?.close();
    way = null;
  }

  function fail() {
    drop();
    if (isClosed) return;
    failures += 1;
    if (state !== "polling") become("retrying");
    const most = Math.min(WAIT_MAX_MS, WAIT_MS[1] * 2 ** Math.max(0, failures - 3));
    nextTry = setTimeout(connect, between([WAIT_MS[0], most]));
    if (poll && !nextPoll) nextPoll = setTimeout(ask, between(WAIT_MS));
  }

  async function ask() {
    const data = await poll().catch(() => null);
    if (isClosed || state === "live") return;
    if (data) onEvent("snapshot", data, null);
    become(data ? "polling" : "retrying");
    clearTimeout(nextPoll);
    nextPoll = setTimeout(ask, between(POLL_MS));
  }

  const soon = () => { if (!isClosed && state !== "live") connect(); };
  const shown = () => { if (document.visibilityState === "visible") soon(); };
  addEventListener("online", soon);
  document.addEventListener("visibilitychange", shown);

  become("retrying");
  if (poll) nextPoll = setTimeout(ask, FIRST_MS); // a first try that hangs shows no empty page
  connect();
  return {
    close() {
      isClosed = true;
      for (const timer of [nextTry, nextPoll]) clearTimeout(timer);
      removeEventListener("online", soon);
      document.removeEventListener("visibilitychange", shown);
      drop();
    },
  };
}

// A way: opens itself, tells `hear` and `lost`, and returns how it is closed.
function socket({ rooms, auth, hear, lost }) {
  const line = new WebSocket(location.origin.replace(/^http/, "ws") + SOCKET);
  const send = (frame) => line.readyState === WebSocket.OPEN && line.send(JSON.stringify(frame));
  let heardAt = Date.now(), askedAt = 0;
  // The server's pings are answered below us, unseen: so we ask, when it has long been quiet.
  const watch = setInterval(() => { // in a hidden tab, once a minute: late is not lost
    const now = Date.now();
    if (askedAt > heardAt) return now > askedAt + ANSWER_MS && lost();
    if (now > heardAt + QUIET_MS) { send({ action: "ping" }); askedAt = now; }
  }, QUIET_MS / 4);
  line.onopen = () => {
    if (auth) send({ action: "auth", ...auth });
    for (const room of rooms) if (room !== "me") send({ action: "join", room });
  };
  line.onmessage = ({ data: text }) => {
    heardAt = Date.now();
    const { event, data, seq } = JSON.parse(text);
    if (event === "pong") return;
    // Who is not believed hears an error instead, and goes without.
    if (event === "authenticated" && rooms.includes("me")) send({ action: "join", room: "me" });
    hear(event, data, seq);
  };
  line.onclose = line.onerror = lost;
  return () => {
    clearInterval(watch);
    line.onclose = line.onerror = line.onmessage = null;
    line.close();
  };
}

function stream({ rooms, auth, failures, hear, lost }) {
  // No token in an address, so who has one hears of "me" on the socket alone. Who was not let in
  // with a name tries without the next time: the browser does not tell why it failed.
  const isNamed = auth?.userId && failures % 2 === 0;
  const asked = new URLSearchParams({ room: rooms.filter((room) => isNamed || room !== "me").join() });
  if (isNamed) asked.set("userId", auth.userId);
  const line = new EventSource(`${STREAM}?${asked}`);
  for (const event of EVENTS) {
    line.addEventListener(event, ({ data, lastEventId }) => {
      if (data === undefined) return; // the browser's own "error"
      hear(event, JSON.parse(data), Number(lastEventId.split("-").at(-1)));
    });
  }
  line.onerror = lost; // it would come back by itself, but at once and with everybody else
  return () => line.close();
}
