// The dashboard's vital signs: what each shows, and from where on it is bad.
import { count, many, time } from "./vitals.js";

// As in docs/monitoring/alerts.yml (a test compares): whom it calls, for how many seconds it must
// last, and the bound. Here a bound that is passed is a warning at once; a `page` turns critical when
// it lasted. What an alert asks of the last minutes is asked of the last ten seconds.
export const ALERTS = {
  VelvetropeDoesNotAddUp: ["page", 0, 0],
  VelvetropePostgresAway: ["page", 10, 0],
  VelvetropeRedisAway: ["ticket", 10, 0],
  VelvetropeKeeperGone: ["page", 10, 0],
  VelvetropeKeeperStuck: ["ticket", 10, 15],
  VelvetropeProcessSilent: ["ticket", 10, 10],
  VelvetropeExpiryLag: ["page", 10, 2],
  VelvetropeUndersell: ["page", 10, 8],
  VelvetropeDrift: ["ticket", 60, 0],
  VelvetropeOldIntent: ["ticket", 5, 8],
  VelvetropePublishLag: ["ticket", 10, 5],
  VelvetropeAuditorSlow: ["ticket", 60, 120],
  VelvetropeErrors: ["page", 30, 0.01],
  VelvetropeOutcomeUnknown: ["ticket", 60, 0.1],
  VelvetropeSlowHolds: ["ticket", 60, 1],
  VelvetropePoolExhausted: ["ticket", 30, 1],
  VelvetropePaymentUndecided: ["page", 10, 30],
  VelvetropeRefundsDue: ["ticket", 300, 86400],
  VelvetropeCallbacksRefused: ["page", 300, 0],
  VelvetropeLimited: ["ticket", 300, 0.1],
  VelvetropeLedgerBroken: ["page", 0, 0],
  VelvetropeLedgerLag: ["ticket", 60, 30],
  VelvetropeSlotCritical: ["page", 60, 0],
  VelvetropeHistoryLost: ["page", 0, 0],
  VelvetropeUnreplicated: ["page", 0, 0],
  VelvetropeActivityLost: ["ticket", 0, 0],
};
const CALM = /^(auditor|pruner|partitioner|checker|postman)$/; // keepers that may take their time,
const CALM_SECONDS = 300; // this long
const STILL_SECONDS = 60; // a drift counts once nothing has moved for so long

const away = (up) => (up === null ? null : up === 0 ? 1 : 0);
const share = (part, whole) => (whole ? part / whole : 0);
const UNASKED = "the bouncer cannot be asked";
const answers = (up) => ({ 1: "answers", 0: "away" })[up] ?? "unknown";

// Each: `show(v)` gives its value and a note, null for what nobody knows; `rules(v)` what is compared
// with the bounds. `v` is the present: { now, span, opened, still }; the last three may be null.
export const SIGNS = [
  {
    id: "holds", label: "Holds/s",
    show: ({ span }) => [count(span?.rate("holds")), `${many(span?.rate("held_units"), "unit")} a second`],
  },
  {
    id: "purchases", label: "Purchases/s",
    show: ({ span }) => [count(span?.rate("purchases")), `${count(span && span.rate("expiries") + span.rate("releases"))} holds a second end unbought`],
  },
  {
    id: "refusals", label: "Refusals/s",
    show: ({ span }) => [count(span?.rate("refusals")), `${count(span?.rate("memory_refusals"))} from memory, ${count(span?.rate("limited"))} limited`],
    rules: ({ span }) => ({ VelvetropeLimited: span && share(span.rise("limited"), span.rise("requests")) }),
  },
  {
    id: "latency", label: "Reserve, p99",
    show: ({ span }) => {
      const quantile = (q, operation) => time(span?.quantile(q, "request_seconds", { operation }));
      return [quantile(0.99, "reserve"), `p50 ${quantile(0.5, "reserve")} · purchase p99 ${quantile(0.99, "purchase")}`];
    },
    rules: ({ span }) => ({ VelvetropeSlowHolds: span && (span.quantile(0.99, "request_seconds", { operation: "reserve" }) ?? 0) }),
  },
  {
    id: "errors", label: "Our errors",
    show: (v) => {
      const { span } = v;
      if (!span) return ["–", "answers from 500 up"];
      return [`${count(100 * failures(span))} %`, `${many(unknown(span), "unknown outcome")} a second`];
    },
    rules: ({ span }) => ({ VelvetropeErrors: span && failures(span), VelvetropeOutcomeUnknown: span && unknown(span) }),
  },
  {
    id: "batch", label: "Mean batch",
    show: ({ now, span }) => [
      count(span?.means("batch_requests", "combiner").get("reserve")),
      `waiting for the next: ${count(now.sum("queued_requests"))}`,
    ],
  },
  {
    id: "proof", label: "Last proven",
    show: ({ now }) => {
      const wrong = now.sum("audit_problem_drops"), paused = now.sum("audit_paused_drops");
      if (wrong || paused) return [`${count(Math.max(wrong, paused))} wrong`, "drops whose rows do not add up: see them below"];
      const age = now.sum("audit_age_seconds");
      if (age === null) return ["–", "nobody can tell"];
      return [`${time(age)} ago`, `to add up: every unit of ${many(now.sum("warm_drops"), "warm drop")}`];
    },
    rules: ({ now }) => ({
      VelvetropeDoesNotAddUp: sum(now.sum("audit_problem_drops"), now.sum("audit_paused_drops")),
      VelvetropeAuditorSlow: now.sum("audit_age_seconds"),
    }),
  },
  {
    id: "drift", label: "Drift",
    show: ({ now }) => {
      const drops = now.samples("drift_units");
      const off = drops.reduce((all, [, value]) => all + Math.abs(value), 0);
      if (!drops.length) return ["–", UNASKED];
      return [many(off, "unit"), off ? "the bouncer differs; harmless while stock moves" : "the bouncer and Postgres agree"];
    },
    rules: ({ now, still }) => ({
      VelvetropeDrift: now.metrics.has("drift_units")
        ? now.samples("drift_units").filter(([{ drop }, value]) => value && still(drop) >= STILL_SECONDS).length
        : null,
    }),
  },
  {
    id: "undersell", label: "Undersell",
    show: ({ now }) => {
      const units = now.sum("undersell_units");
      if (units === null) return ["–", UNASKED];
      return [many(units, "unit"), units ? `free and out of reach, ${time(now.max("undersell_seconds"))} at most` : "every free unit can be had"];
    },
    rules: ({ now }) => ({ VelvetropeUndersell: now.max("undersell_seconds") }),
  },
  {
    id: "intent", label: "Oldest intent",
    show: ({ now }) => [time(now.max("oldest_intent_seconds")), `${many(now.sum("open_intents"), "request")} under way to Postgres`],
    rules: ({ now }) => ({ VelvetropeOldIntent: now.max("oldest_intent_seconds") }),
  },
  {
    id: "listeners", label: "Listeners",
    show: ({ now, span }) => {
      const lag = span?.quantile(0.99, "live_lag_seconds", { stage: "told" }) ?? null;
      return [count(now.sum("listeners")), `${lag === null ? "no change to tell" : `told within ${time(lag)} (p99)`}; ${count(span?.rise("listeners_dropped"))} dropped just now`];
    },
  },
  {
    id: "publish", label: "Bouncer behind",
    show: ({ now }) => [time(now.max("publish_lag_seconds")), `${many(now.max("publish_lag_versions"), "change")} not yet told`],
    rules: ({ now }) => ({ VelvetropePublishLag: now.max("publish_lag_seconds") }),
  },
  {
    id: "lag", label: "Keeper lag",
    show: ({ now }) => {
      const slowest = rounds(now)[0];
      return [time(now.sum("expiry_lag_seconds")), slowest ? `longest since a round: ${slowest[0]}, ${time(slowest[1])}` : "overdue holds not freed"];
    },
    rules: ({ now }) => ({ VelvetropeExpiryLag: now.sum("expiry_lag_seconds"), VelvetropeKeeperStuck: stuck(now) }),
  },
  {
    id: "keepers", label: "Keepers",
    show: ({ now }) => {
      const beat = now.sum("keeper_beat_age_seconds");
      return [count(now.sum("keepers")), beat === null ? "no sign of life is known" : `last sign of life ${time(beat)} ago`];
    },
    rules: ({ now }) => ({ VelvetropeKeeperGone: away(now.sum("keepers")) }),
  },
  {
    id: "workers", label: "Workers",
    show: ({ now }) => [count(now.sum("processes", { kind: "worker" })), `most silent process: ${time(now.sum("process_silent_seconds"))}`],
    rules: ({ now }) => ({ VelvetropeProcessSilent: now.sum("process_silent_seconds") }),
  },
  {
    id: "postgres", label: "Postgres",
    show: ({ now }) => [answers(now.sum("postgres_up")), `${count(now.sum("pool_connections_in_use"))} of ${count(now.sum("pool_connections"))} connections in use`],
    rules: ({ now, span }) => ({
      VelvetropePostgresAway: away(now.sum("postgres_up")),
      VelvetropePoolExhausted: now.sum("pool_connections_in_use") >= now.sum("pool_connections") ? span && span.rate("pool_waits") : 0,
    }),
  },
  {
    id: "redis", label: "Redis",
    show: ({ now }) => {
      const without = now.sum("redis_away_processes");
      return [answers(now.sum("redis_up")), without === null ? "" : without ? `without it: ${count(without)} of our processes; Postgres sells alone` : "every process has it"];
    },
    rules: ({ now }) => ({ VelvetropeRedisAway: sum(away(now.sum("redis_up")), now.sum("redis_away_processes")) }),
  },
  {
    id: "money", label: "Money owed",
    show: ({ now }) => [many(now.sum("refunds_due"), "refund"), `${many(now.sum("payments_undecided"), "payment")} undecided`],
    rules: ({ now, span }) => ({
      VelvetropePaymentUndecided: now.sum("payment_undecided_seconds"),
      VelvetropeRefundsDue: now.sum("refund_oldest_seconds"),
      VelvetropeCallbacksRefused: span && span.rate("refusals", { operation: "payment_callback", code: "UNAUTHORIZED" }),
    }),
  },
  {
    id: "ledger", label: "Ledger", page: ["/ledger-view", "See the ledger"],
    show: ({ now }) => {
      const sealed = now.sum("ledger_sequence"), waiting = now.sum("ledger_unsealed"), valid = now.sum("ledger_valid");
      if (sealed === null) return ["–", "nobody can tell"];
      const backlog = waiting ? `${count(waiting)} wait, ${time(now.sum("ledger_lag_seconds"))} at most` : "nothing waits";
      const verdict = valid === null ? "never verified" : `${valid ? "whole" : "broken"} ${time(now.sum("ledger_checked_age_seconds"))} ago`;
      return [count(sealed), `records sealed; ${backlog}; ${verdict}`];
    },
    rules: ({ now }) => ({
      VelvetropeLedgerBroken: now.sum("ledger_sequence") === null ? null : 1 - (now.sum("ledger_valid") ?? 1),
      VelvetropeLedgerLag: now.sum("ledger_lag_seconds"),
    }),
  },
  {
    id: "cold", label: "Freezers", page: ["/slots-board", "See the slots board"],
    show: ({ now }) => {
      const warm = now.sum("slots_critical");
      return [many(warm, "slot"), warm === null ? "nobody can tell" : warm ? "critically warm" : "that are critically warm"];
    },
    rules: ({ now }) => ({ VelvetropeSlotCritical: now.sum("slots_critical") }),
  },
  {
    id: "history", label: "History lost",
    show: ({ opened }) => [many(opened?.rise("lost_versions") ?? 0, "change"), "by Postgres, since this page was opened"],
    rules: ({ opened }) => ({
      VelvetropeHistoryLost: opened ? opened.rise("lost_versions") : 0,
      VelvetropeUnreplicated: opened ? opened.rise("unreplicated_commits") : 0,
    }),
  },
  {
    id: "activity", label: "Activity lost",
    show: ({ opened }) => [many(lost(opened), "act"), "missing in the users' log, since this page was opened"],
    rules: ({ opened }) => ({ VelvetropeActivityLost: lost(opened) }),
  },
];

const lost = (opened) =>
  ["overflow", "refused", "unwritten"].reduce((all, outcome) => all + (opened?.rise("activity", { outcome }) ?? 0), 0);
const sum = (a, b) => (a === null && b === null ? null : (a ?? 0) + (b ?? 0));
const unknown = (span) => span.rate("refusals", { code: "OUTCOME_UNKNOWN" });

function failures(span) {
  const rates = [...span.rates("requests", "status")];
  const total = (of) => of.reduce((all, [, rate]) => all + rate, 0);
  return share(total(rates.filter(([status]) => status >= "500")), total(rates));
}

// Keepers' loops by how long ago they came round, against what each may take: the worst first.
function rounds(now) {
  return [...now.by("keeper_round_age_seconds", "keeper")].sort((a, b) => late(b) - late(a));
}
const late = ([keeper, age]) => age / (CALM.test(keeper) ? CALM_SECONDS : ALERTS.VelvetropeKeeperStuck[2]);
const stuck = (now) => {
  const worst = rounds(now)[0];
  return worst ? late(worst) * ALERTS.VelvetropeKeeperStuck[2] : 0; // no keeper here: others may see it
};

// How bad each alert is, remembered: "warning" as soon as its bound is passed, "critical" when a page
// would go out.
export class Judge {
  #since = new Map();

  level(alert, measure, at) {
    const [severity, seconds, bound] = ALERTS[alert];
    if (!(measure > bound)) {
      this.#since.delete(alert);
      return "healthy";
    }
    if (!this.#since.has(alert)) this.#since.set(alert, at);
    return severity === "page" && at - this.#since.get(alert) >= seconds * 1000 ? "critical" : "warning";
  }

  // { level, alerts }: healthy, warning, critical; unknown where nothing is known; info without rules.
  of(sign, v) {
    if (!sign.rules) return { level: "info", alerts: [] };
    const levels = Object.entries(sign.rules(v)).map(([alert, measure]) => [alert, measure === null ? "unknown" : this.level(alert, measure, v.now.at)]);
    const level = ["critical", "warning", "unknown", "healthy"].find((each) => levels.some(([, found]) => found === each));
    return { level, alerts: levels.filter(([, found]) => found === level && /critical|warning/.test(level)).map(([alert]) => alert) };
  }
}
