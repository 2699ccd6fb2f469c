// Runs executions in aws-local-stepfunctions: reads a JSON list of them, writes what each of them did.
//
// Tasks are answered from a script, and time is virtual: a timer fires when nothing else is left to do, and the clock
// then shows its moment. So a grace period is over at once, and is still counted to the millisecond.
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

// Node has it from version 22 on.
Promise.withResolvers ??= () => {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
const turn = () => new Promise(setImmediate);
// Jitter chooses the longest delay that it may.
Math.random = () => 1 - Number.EPSILON;

const timers = new Map();
let now;
Date.now = () => now;
globalThis.setTimeout = (fire, milliseconds) => {
  const timer = Symbol();
  timers.set(timer, { fire, at: now + Math.max(0, milliseconds) });
  return timer;
};
globalThis.clearTimeout = (timer) => timers.delete(timer);

const { StateMachine } = await import("aws-local-stepfunctions");

// Its log of events hands the events of an inner scope on a moment later, and loses the last; this does not.
let entered;
const tokens = new Set();
const withoutTokens = (value) =>
  JSON.parse(JSON.stringify(value), (key, inner) => (tokens.has(inner) ? "a task token" : inner));
const execute = StateMachine.prototype.execute;
StateMachine.prototype.execute = function (input, options, cleanUp) {
  options.eventLogger.dispatchStateEnteredEvent = (name, type, given) =>
    entered.push({ name, input: withoutTokens(given) });
  return execute.call(this, input, options, cleanUp);
};

function taskStates(machine) {
  return Object.entries(machine.States).flatMap(([name, state]) => [
    ...(state.Type === "Task" ? [name] : []),
    ...[...(state.Branches ?? []), ...(state.ItemProcessor ? [state.ItemProcessor] : [])].flatMap(taskStates),
  ]);
}

async function run({ definition, input, context, answers, start }) {
  now = start;
  timers.clear();
  entered = [];
  const waits = [];
  const unanswered = [];
  const script = structuredClone(answers);
  const answer = async (name, asked) => {
    const given = withoutTokens(asked);
    const place = script.findIndex((one) => one.state === name && isDeepStrictEqual(one.arguments, given));
    if (place < 0) {
      unanswered.push({ state: name, arguments: given });
      return new Promise(() => {});
    }
    const [found] = script.splice(place, 1);
    if ("error" in found) throw Object.assign(new Error(found.cause), { name: found.error });
    return found.result;
  };
  // Whether the definition is valid is asked elsewhere, once.
  const execution = new StateMachine(definition, { validationOptions: { noValidate: true } }).run(input, {
    context: {
      ...context,
      // Read anew by every scope, so every iteration of a Map gets one of its own.
      get Task() {
        const token = `task-token-${tokens.size}`;
        tokens.add(token);
        return { Token: token };
      },
    },
    overrides: {
      taskResourceLocalHandlers: Object.fromEntries(
        taskStates(definition).map((name) => [name, (given) => answer(name, given)]),
      ),
    },
  });
  let end;
  execution.result.then(
    (output) => (end = { output }),
    (failure) => (end = { error: failure.cause?.name ?? failure.name, cause: failure.cause?.message ?? "" }),
  );
  while (!end) {
    await turn();
    if (end) break;
    const [timer, next] = [...timers].reduce((first, one) => (one[1].at < first[1].at ? one : first));
    timers.delete(timer);
    if (next.at > now) waits.push((next.at - now) / 1000);
    now = next.at;
    next.fire();
  }
  return { entered, waits, unanswered, unused: script, ...end };
}

const results = [];
for (const execution of JSON.parse(readFileSync(0, "utf8"))) results.push(await run(execution));
process.stdout.write(JSON.stringify(results));
