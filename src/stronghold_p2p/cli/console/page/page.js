// The console's page. What the server tells may hold text of remotes: it goes into the document as textContent alone.

const HOUR = 3600;
/** Milliseconds without news from the server after which the connection counts as lost; it sends some each 15 s. */
const SILENCE = 40_000;
/** Milliseconds until the next attempt to connect. */
const RETRY = 2000;
/** Milliseconds for which a question that has ended stays, so that what is below it does not move under a hand. */
const KEEP = 4000;
/** Milliseconds after a move of the questions in which clicks of a pointer do not count: they were meant for what was there. */
const SETTLE = 400;
/** Seconds that are few. */
const LATE = 10;

const ENDS = {
  approved: "Allowed",
  rejected: "Rejected",
  "rule set": "Decided by a new rule",
  reconsidered: "A rule decides it now",
  "timed out": "Rejected: not answered in time",
  withdrawn: "The request was withdrawn",
  "crowded out": "Rejected: too many others wait",
  unanswered: "Rejected: nobody answers any more",
  closed: "Rejected: the peer is closing",
};
const MARKS = { allow: "✓", reject: "✕", ask: "?", predicate: "ƒ" };
const WORDS = { allow: "pass", reject: "are rejected", ask: "are asked about", predicate: "decided by a program" };
const LAYERS = {
  "policy peer": "policy",
  "policy default": "policy",
  peer: "set for this peer",
  default: "set for all others",
  none: "no rule",
  suspended: "until the audit can be written again",
};

const find = (selector, within = document) => within.querySelector(selector);
const questions = new Map();
/** Server's clock less ours, in seconds. */
let ahead = 0;
let movedAt = -Infinity;
let source;
let silence;

// -- making elements ------------------------------------------------------------------------------

function make(tag, text, className = null, ...children) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  if (className) element.className = className;
  element.append(...children);
  return element;
}

const shortened = (peer) => `${peer.slice(0, 8)}…${peer.slice(-6)}`;
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const now = () => Date.now() / 1000 + ahead;
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

/** A peer as people know it, and what tells it from others. */
function who(told) {
  const id = make("span", shortened(told.peer), "id");
  id.title = told.peer;
  return told.name === null ? [id] : [make("bdi", told.name), " ", id];
}

function duration(seconds) {
  if (seconds < 0.001) return "under 1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 2 * HOUR) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * HOUR) return `${Math.round(seconds / HOUR)} h`;
  return `${Math.round(seconds / (24 * HOUR))} days`;
}

const called = (told) => told.name ?? shortened(told.peer);
const described = (told) => `${called(told)}${told.type === null ? "" : `, ${told.type}`}`;

// -- questions ------------------------------------------------------------------------------------

function showQuestions({ shown, more, ended }) {
  const open = new Set(shown.map((told) => told.id));
  const neighbors = new Map();
  for (const { network } of shown) neighbors.set(network, (neighbors.get(network) ?? 0) + 1);
  const ends = new Map(ended.map((told) => [told.id, told]));
  for (const [id, card] of questions) if (!open.has(id)) endCard(id, card, ends.get(id));
  for (const told of shown) {
    if (!questions.has(told.id)) addCard(told);
    refreshCard(questions.get(told.id), told, neighbors);
  }
  const rest = find("#questions .more");
  rest.textContent = more ? `${plural(more, "more question")} waiting for a place here` : "";
  const count = shown.length + more;
  find("[data-count=questions]").textContent = count || "";
  document.title = count ? `(${count}) Stronghold` : "Stronghold";
}

function addCard(told) {
  const card = find("#question").content.firstElementChild.cloneNode(true);
  card.dataset.id = told.id;
  card.told = told;
  find(".who", card).append(...who(told));
  const type = told.type === null ? "a request" : make("code", told.type);
  const way = told.direction === "inbound" ? "Inbound: it sends you " : "Outbound: you send it ";
  find(".asks", card).append(way, type, make("span", null, "more-waiting"));
  find(".stranger", card).hidden = told.kind !== "peer";
  find(".peer", card).textContent = told.peer;
  find(".path", card).textContent = told.address === null ? told.path : `${told.path}, ${told.address}`;
  find(".view", card).textContent = told.view;
  for (const button of card.querySelectorAll("[data-answer=type]")) {
    if (!told.whole) button.remove();
    else find(".type", button).textContent = told.type;
  }
  card.total = Math.max(told.expires - now(), 1);
  card.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-answer]");
    // Of a pointer (detail is 0 for keys): what was there a moment ago may have been another question.
    if (!button || (event.detail > 0 && performance.now() - movedAt < SETTLE)) {
      if (button) event.preventDefault();
      return;
    }
    if (button.type !== "submit") choose(card, button);
  });
  find("form", card).addEventListener("submit", (event) => {
    event.preventDefault();
    answer(card, { answer: "reject", reason: find(".reason", card).value || null });
  });
  questions.set(told.id, card);
  find(".cards").append(card);
  tick();
  tell(`New question: ${described(told)}`);
}

/** ``neighbors``: how many questions are open from each network. */
function refreshCard(card, told, neighbors) {
  find(".more-waiting", card).textContent = told.waiting > 1 ? ` (${told.waiting} requests wait)` : "";
  const by = find(".agreed", card);
  by.hidden = told.need < 2;
  by.textContent = `${told.agreed} of ${told.need} approvers have agreed. Here it can only be rejected.`;
  find(".allow", card).hidden = told.need > 1;
  const network = find("[data-answer=network]", card);
  network.hidden = told.network === null || neighbors.get(told.network) < 2;
  network.textContent = `Reject all from ${told.network}`;
}

function endCard(id, card, ended) {
  questions.delete(id);
  const reason = ended?.reason ? `: ${ended.reason}` : "";
  const text = `${ENDS[ended?.outcome] ?? "It has ended"}${reason}`;
  const outcome = find(".outcome", card);
  outcome.textContent = text;
  outcome.hidden = false;
  const hadFocus = card.contains(document.activeElement);
  card.dataset.ended = "";
  for (const control of card.querySelectorAll("button, input")) control.disabled = true;
  if (sure.open && sure.card === card) sure.close();
  if (hadFocus) (questions.values().next().value ?? find("#questions-title")).focus();
  tell(`${described(card.told)}: ${text}`);
  setTimeout(() => {
    card.remove();
    movedAt = performance.now();
  }, KEEP);
}

function choose(card, button) {
  const given = { answer: button.dataset.answer, for: Number(button.dataset.for) || null };
  const name = called(card.told);
  if (given.answer === "all") {
    const what = card.told.direction === "inbound" ? `send you anything` : `be sent anything`;
    const text = `${name} may ${what} from now on, whatever it is, until you remove the rule.`;
    ask(text, "Allow everything", () => answer(card, given), card);
  } else if (given.answer === "ban") {
    const text = `${name} is disconnected, and can connect no more until you lift the ban.`;
    ask(text, "Ban peer", () => answer(card, given), card);
  } else {
    answer(card, given);
  }
}

async function answer(card, given) {
  const failure = find(".failure", card);
  failure.hidden = true;
  const controls = card.querySelectorAll("button, input");
  if (card.contains(document.activeElement)) card.focus(); // what is disabled loses the focus
  for (const control of controls) control.disabled = true;
  const problem = await post("answer", { id: card.told.id, ...given });
  if (problem === null || "ended" in card.dataset) return;
  failure.textContent = problem;
  failure.hidden = false;
  for (const control of controls) control.disabled = false;
}

/** Null, or what went wrong. */
async function post(path, content) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
    return response.ok ? null : (await response.json()).message;
  } catch {
    return "The peer does not answer.";
  }
}

function tick() {
  for (const card of questions.values()) {
    const left = Math.max(card.told.expires - now(), 0);
    find(".seconds", card).textContent = `${Math.ceil(left)} s left`;
    find(".time > div", card).style.transform = `scaleX(${Math.min(left / card.total, 1)})`;
    card.toggleAttribute("data-late", left <= LATE);
  }
}

/** For those who hear the page. */
function tell(text) {
  find("#news").textContent = text;
}

// -- being sure -----------------------------------------------------------------------------------

const sure = find("#sure");

/** ``card``: of the question that this is about. */
function ask(text, yes, act, card = null) {
  find("#sure-text").textContent = text;
  find("[data-sure=yes]").textContent = yes;
  sure.card = card;
  sure.act = act;
  sure.showModal();
}

sure.addEventListener("click", (event) => {
  const said = event.target.dataset.sure;
  if (!said) return;
  sure.close();
  if (said === "yes") sure.act();
});

// -- lists ----------------------------------------------------------------------------------------

function list(id, rows, more = "") {
  find(`#${id} .rows`).replaceChildren(...rows);
  find(`#${id} .more`).textContent = more;
}

function chip(verdict, text) {
  const element = make("span", text, "chip");
  element.dataset.verdict = verdict;
  return element;
}

function decisionRow(told) {
  const verdict = told.allowed ? "allow" : "reject";
  const time = make("time", clock(told.at));
  const what = make("p", null, "what");
  what.append(
    ...who(told),
    told.direction === "inbound" ? " sent " : " was sent ",
    told.type === null ? "a request" : make("code", told.type),
  );
  const by = told.by === "rule" ? `rule: ${origin(told)}` : told.by;
  const details = [by];
  if (told.how !== "approved" && told.how !== "rejected") details.push(told.how);
  if (told.reason) details.push(told.reason);
  if (told.waited >= 0.05) details.push(`after ${duration(told.waited)}`);
  if (told.outcome) details.push(`${told.outcome} in ${duration(told.seconds)}`);
  if (told.observed !== null) details.push(`the policy would have ${told.observed ? "allowed" : "rejected"} it`);
  const mark = chip(verdict, `${MARKS[verdict]} ${told.allowed ? "allowed" : "rejected"}`);
  return make("li", null, "row", time, mark, what, make("p", details.join(" · "), "dim"));
}

/** Where a rule is from. */
const origin = (told) => `${LAYERS[told.layer]}${told.line === null ? "" : `, line ${told.line}`}`;

function ruleRow(told) {
  const to = told.direction === "inbound" ? "to us" : "from us";
  const title = make("p", null, null);
  if (told.peer === null) title.append(make("strong", "All others"));
  else title.append(...who(told));
  title.append(make("span", ` ${to} · ${origin(told)}`, "dim"));
  if (told.says.length === 0) return make("li", null, null, title, chip("ask", "? a question about the peer"));
  const row = make("li", null, null, title, ...told.says.flatMap(saidParts));
  if (told.layer === "peer") {
    const which = `the rule for requests ${told.direction === "inbound" ? "from" : "to"} ${called(told)}`;
    row.prepend(removal(told, told.direction, "Remove", `Remove ${which}`, "Then the rule for all others decides."));
  }
  return row;
}

function banRow(told) {
  const chips = make("p", null, "chips", chip("reject", `${MARKS.reject} banned: no connection`));
  const then = "Then it may connect again, and rules decide about its requests.";
  const button = removal(told, "ban", "Lift ban", `Lift the ban of ${called(told)}`, then);
  return make("li", null, null, button, make("p", null, null, ...who(told)), chips);
}

/** A button; ``label`` says in full what it does, ``then`` what follows. */
function removal(told, what, title, label, then) {
  const button = make("button", title);
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => {
    ask(`${label}? ${then}`, title, async () => {
      const problem = await post("removal", { peer: told.peer, what });
      if (problem !== null) notice(problem);
    });
  });
  return button;
}

/** One rule of those that come one after the other. */
function saidParts(said, at) {
  const chips = said.types.map(([name, verdict]) => chip(verdict, `${MARKS[verdict]} ${name}`));
  if (said.more) chips.push(make("span", `and ${said.more} more`, "dim"));
  const others = said.types.length ? "others" : "all requests";
  chips.push(chip(said.otherwise, `${MARKS[said.otherwise]} ${others}: ${WORDS[said.otherwise]}`));
  if (at > 0) chips.unshift(make("span", "then", "dim"));
  const parts = [make("p", null, "chips", ...chips)];
  if (said.until !== null) {
    const left = said.until - now();
    const end = new Date(said.until * 1000).toLocaleString();
    const text = `until ${end}${left > 0 ? `, for ${duration(left)} more` : ""}${said.strict ? ", with what it let in" : ""}`;
    parts.push(make("p", text, "dim"));
  }
  return parts;
}

function connectionRow(told) {
  const title = make("p", null, null, ...who(told));
  const from = told.direction === "inbound" ? "it dialed us" : "we dialed it";
  const text = `${told.path} · ${told.address} · ${from} at ${clock(told.since)}`;
  return make("li", null, null, title, make("p", text, "dim"));
}

// -- news from the server -------------------------------------------------------------------------

const SECTIONS = {
  peer: (id) => {
    find("#self").textContent = id;
  },
  questions: showQuestions,
  decisions: (listed) => list("decisions", listed.map(decisionRow)),
  rules: ({ listed, banned, all }) => {
    list("rules", [...listed.map(ruleRow), ...banned.map(banRow)], all ? "" : "These are not all.");
  },
  connections: ({ listed, all }) => {
    list("connections", listed.map(connectionRow), all > listed.length ? `and ${all - listed.length} more` : "");
    find("[data-count=connections]").textContent = all || "";
  },
};

function take(news) {
  if (news.end !== undefined) {
    source.close();
    clearTimeout(silence);
    state("lost", "not connected");
    notice(news.end);
    return;
  }
  ahead = news.now - Date.now() / 1000;
  state("live", "live");
  notice("");
  for (const [name, content] of Object.entries(news)) SECTIONS[name]?.(content);
}

function connect() {
  source?.close();
  source = new EventSource("updates");
  listen();
  source.onmessage = (event) => {
    listen();
    take(JSON.parse(event.data));
  };
  source.onerror = () => {
    state("lost", "not connected");
    notice("The peer does not answer. If it was started anew, open the link that it has printed.");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
  };
}

/** Connects anew if nothing comes any more. */
function listen() {
  clearTimeout(silence);
  silence = setTimeout(connect, SILENCE);
}

function state(name, text) {
  const link = find("#link");
  if (link.dataset.state === name) return;
  link.dataset.state = name;
  link.textContent = text;
}

function notice(text) {
  const element = find("#notice");
  if (element.textContent !== text) element.textContent = text;
  element.hidden = text === "";
}

const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  await post("session", { token }); // if it was used before, this browser may be in already
}
setInterval(tick, 1000);
connect();
