// The conversation: turns of a question and the answers to it, one in each lane.
//
// A question is {text}, or {results, lane}: what tools gave to the calls of the turn before it.
// Lane b is only there while two settings are compared; what it has not answered itself, it takes
// from lane a.

import { messageOf } from "./answer.js";

export const emptyTalk = () => ({ turns: [] });

export function addTurn(talk, question) {
  talk.turns.push({ question, answers: {} });
  return talk.turns.length - 1;
}

// Asks differently at `index`; what followed is forgotten.
export function rewrite(talk, index, question) {
  talk.turns.splice(index);
  return addTurn(talk, question);
}

export const answerOf = (turn, lane) => turn.answers[lane] ?? turn.answers.a ?? null;

// The messages that turn `index` is asked with in a lane. A turn that was never answered is left
// out, because templates insist on the order of roles.
export function messagesFor(talk, index, lane) {
  const messages = [];
  for (const turn of talk.turns.slice(0, index)) {
    const answer = answerOf(turn, lane), message = answer && messageOf(answer);
    if (message && concerns(turn, lane)) messages.push(...asked(turn.question), message);
  }
  return [...messages, ...asked(talk.turns[index].question)];
}

const concerns = ({ question }, lane) => !question.results || question.lane === lane;

function asked({ text, results }) {
  if (!results) return [{ role: "user", content: text }];
  return results.map((one) => ({ role: "tool", tool_call_id: one.id, content: one.text }));
}

// What was still being written when the page was left ends as stopped.
export function settle(talk) {
  for (const { answers } of talk.turns) {
    for (const answer of Object.values(answers)) {
      if (answer.state === "waiting" || answer.state === "streaming") answer.state = "stopped";
    }
  }
  return talk;
}
