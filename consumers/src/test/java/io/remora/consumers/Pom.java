// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.xml.sax.SAXException;

/**
 * A deployed pom.
 *
 * @param project its root
 * @param text the file's content
 */
record Pom(Element project, String text) {

  /**
   * A dependency as the pom has it.
   *
   * @param name group and artifact
   * @param version its version
   * @param classifier its classifier; "" if none
   * @param scope its scope; "compile" if the pom has none
   * @param optional whether users of the artifact are spared it
   */
  record Dependency(
      String name, String version, String classifier, String scope, boolean optional) {}

  static Pom of(String artifact) throws IOException {
    Path file = Repository.file(artifact, "\\.pom");
    try {
      return new Pom(
          DocumentBuilderFactory.newInstance()
              .newDocumentBuilder()
              .parse(file.toFile())
              .getDocumentElement(),
          Files.readString(file));
    } catch (ParserConfigurationException | SAXException e) {
      throw new IOException("%s cannot be read".formatted(file), e);
    }
  }

  /** The texts of all elements that are reached by these names, one inside the other. */
  List<String> texts(String... path) {
    return elements(project, path).stream().map(each -> each.getTextContent().strip()).toList();
  }

  List<Dependency> dependencies() {
    return dependencies(elements(project, "dependencies", "dependency"));
  }

  List<Dependency> managed() {
    return dependencies(elements(project, "dependencyManagement", "dependencies", "dependency"));
  }

  private static List<Dependency> dependencies(List<Element> elements) {
    return elements.stream()
        .map(
            each ->
                new Dependency(
                    text(each, "groupId", "") + ":" + text(each, "artifactId", ""),
                    text(each, "version", ""),
                    text(each, "classifier", ""),
                    text(each, "scope", "compile"),
                    text(each, "optional", "").equals("true")))
        .toList();
  }

  private static String text(Element parent, String name, String absent) {
    return elements(parent, name).stream()
        .findFirst()
        .map(each -> each.getTextContent().strip())
        .orElse(absent);
  }

  private static List<Element> elements(Element root, String... path) {
    List<Element> reached = List.of(root);
    for (String name : path) {
      List<Element> next = new ArrayList<>();
      for (Element parent : reached) {
        for (Node each = parent.getFirstChild(); each != null; each = each.getNextSibling()) {
          if (each instanceof Element element && element.getTagName().equals(name)) {
            next.add(element);
          }
        }
      }
      reached = next;
    }
    return reached;
  }
}
