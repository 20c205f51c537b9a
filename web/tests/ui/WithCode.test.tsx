import { render, screen } from "@testing-library/react";
import { expect, it } from "vitest";
import { WithCode } from "../../src/ui/WithCode";

it("sets commands apart, and interprets nothing else", () => {
  /** A person would copy the backticks into the shell; or a message from an engine would become markup. */
  const { container } = render(<WithCode text="Run `lamplighter doctor`, <b>not</b> *this*." />);
  expect(screen.getByText("lamplighter doctor").tagName).toBe("CODE");
  expect(container.textContent).toBe("Run lamplighter doctor, <b>not</b> *this*.");
  expect(container.querySelector("b")).toBeNull();
});
